-- Receipts are signed by the service, so that whoever has one can check it without the service. The private keys are
-- not here.

-- Makes a public key known, a JWK (RFC 7517) under its thumbprint.
CREATE OR REPLACE FUNCTION scopefloor.register_receipt_key(of_id text, jwk jsonb) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  INSERT INTO scopefloor.receipt_key (id, jwk) VALUES (of_id, jwk) ON CONFLICT (id) DO NOTHING
$$;

-- All that receipts were ever signed with: {keys: [...]}, for anyone.
CREATE OR REPLACE FUNCTION scopefloor.receipt_keys() RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT jsonb_build_object('keys', coalesce(jsonb_agg(k.jwk ORDER BY k.created_at, k.id), '[]')) FROM scopefloor.receipt_key k
$$;

-- The ticket of a call that has left a receipt: what forgets or deletes, and what writes, which may delete keyed items.
CREATE OR REPLACE FUNCTION scopefloor.receipt_ticket() RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
BEGIN
  IF t IS NULL OR t->>'mode' NOT IN ('write', 'delete', 'forget', 'erase') THEN
    RAISE EXCEPTION 'scopefloor: not a ticket for receipts' USING ERRCODE = 'insufficient_privilege';
  END IF;
  RETURN t;
END $$;

-- What is signed of a receipt of this transaction: numbers, ids and hashes of names, so that no later erasure touches it.
CREATE OR REPLACE FUNCTION scopefloor.receipt_statement(of_id uuid) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.receipt_ticket();
BEGIN
  RETURN (SELECT jsonb_build_object('receipt', r.id, 'scope', coalesce(r.target->>'!digest', scopefloor.scope_digest(r.target)), 'subtree', r.subtree,
                                    'action', r.action, 'policy', r.policy, 'counts', r.counts, 'by', r.api_key_id, 'at', scopefloor.rfc3339(r.created_at))
          FROM scopefloor.forget_receipt r WHERE r.scope_id = (t->'trace'->>'id')::int AND r.id = of_id AND r.created_at = transaction_timestamp() AND r.jws IS NULL);
END $$;

-- Puts the signature (JWS, RFC 7515) to a receipt of this transaction.
CREATE OR REPLACE FUNCTION scopefloor.sign_receipt(of_id uuid, signed text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.receipt_ticket();
BEGIN
  IF length(signed) > 10000 THEN
    RAISE EXCEPTION 'scopefloor: not a signature' USING ERRCODE = 'check_violation';
  END IF;
  UPDATE scopefloor.forget_receipt r SET jws = signed
  WHERE r.scope_id = (t->'trace'->>'id')::int AND r.id = of_id AND r.created_at = transaction_timestamp() AND r.jws IS NULL;
END $$;
