-- Columns that hold names of tenants: the planner would keep samples of them past an erasure.

ALTER TABLE scopefloor.scope ALTER display_name SET STATISTICS 0, ALTER description SET STATISTICS 0;
--> statement-breakpoint
ALTER TABLE scopefloor.api_key ALTER name SET STATISTICS 0, ALTER floor SET STATISTICS 0;
--> statement-breakpoint
ALTER TABLE scopefloor.forget_receipt ALTER target SET STATISTICS 0;
--> statement-breakpoint
ALTER TABLE scopefloor.idempotency ALTER endpoint SET STATISTICS 0;
--> statement-breakpoint
-- What was sampled before goes with the next ANALYZE.
ANALYZE scopefloor.scope, scopefloor.api_key, scopefloor.forget_receipt, scopefloor.idempotency;
