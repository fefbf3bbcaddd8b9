-- ---------------------------------------------------------------------------------------------
-- Who may call what. Definer functions belong to scopefloor_definer; nothing is open to PUBLIC.

DO $$
DECLARE
  f record;
  owner name;
BEGIN
  FOR f IN SELECT p.oid::regprocedure AS signature, p.prosecdef AS definer, p.proname AS name
           FROM pg_proc p WHERE p.pronamespace = 'scopefloor'::regnamespace LOOP
    EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', f.signature);
    IF f.name IN ('enter', 'record_denial', 'hides_scopes', 'reserve_turns', 'claim_idempotency', 'store_answer', 'touch_key',
                  'mint_key', 'list_keys', 'own_keys', 'principal_of', 'rotate_key', 'revoke_key', 'stored_answer', 'configure_context', 'context_created_at',
                  'retire_scopes', 'drop_recalled_answers', 'usage',
                  -- what the policies call
                  'readable', 'readable_own', 'listable', 'modifiable', 'insertable', 'recordable', 'reads_all', 'lists_all',
                  'modifies_all', 'forgets', 'caller', 'caller_principal', 'may_record', 'may_add_turn') THEN
      EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO scopefloor_app', f.signature);
    ELSIF f.name IN ('fold_counters', 'purge_old') THEN
      EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO scopefloor_worker', f.signature);
    END IF;
    IF f.definer THEN
      EXECUTE format('ALTER FUNCTION %s OWNER TO scopefloor_definer', f.signature);
    ELSE
      EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO scopefloor_definer', f.signature);
    END IF;
    IF f.name IN ('rotate_ticket_secret', 'set_first_key', 'recover_first_key', 'has_first_key', 'ensure_context', 'ensure_embedder') THEN
      -- As the new owner: a grant of the old one's to itself would have gone over with the function.
      owner := current_user;
      SET LOCAL ROLE scopefloor_definer;
      EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', f.signature, owner);
      RESET ROLE;
    END IF;
  END LOOP;
END $$;
--> statement-breakpoint
-- Readiness asks whether the database is at the code's version.
GRANT SELECT ON scopefloor.migration TO scopefloor_app, scopefloor_worker;
--> statement-breakpoint
GRANT USAGE ON ALL SEQUENCES IN SCHEMA scopefloor TO scopefloor_definer;
--> statement-breakpoint
REVOKE CREATE ON SCHEMA scopefloor FROM scopefloor_definer;
