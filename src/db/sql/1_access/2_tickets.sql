-- Tickets: what a transaction has entered for, in a setting of that transaction, signed with
-- HMAC-SHA-256 (RFC 2104). The pads are kept instead of the secret.

-- A new secret to sign with. Two are valid at a time: transactions that are open now keep theirs.
CREATE OR REPLACE FUNCTION scopefloor.rotate_ticket_secret() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  secret bytea := ''::bytea;
  inner_pad bytea;
  outer_pad bytea;
BEGIN
  FOR i IN 1..4 LOOP
    secret := secret || sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()));
  END LOOP;
  secret := substring(secret FROM 1 FOR 64); -- exactly one SHA-256 block: needs no padding
  inner_pad := secret;
  outer_pad := secret;
  FOR i IN 0..63 LOOP
    inner_pad := set_byte(inner_pad, i, get_byte(secret, i) # 54);
    outer_pad := set_byte(outer_pad, i, get_byte(secret, i) # 92);
  END LOOP;
  INSERT INTO scopefloor.ticket_secret (inner_pad, outer_pad) VALUES (inner_pad, outer_pad);
  DELETE FROM scopefloor.ticket_secret t
  WHERE t.id NOT IN (SELECT s.id FROM scopefloor.ticket_secret s ORDER BY s.id DESC LIMIT 2);
END $$;

-- For the functions that enter: who could call this could forge.
CREATE OR REPLACE FUNCTION scopefloor.sign_ticket(payload jsonb) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  s scopefloor.ticket_secret;
BEGIN
  SELECT * INTO STRICT s FROM scopefloor.ticket_secret ORDER BY id DESC LIMIT 1;
  RETURN s.id || '.'
    || encode(sha256(s.outer_pad || sha256(s.inner_pad || convert_to(payload::text, 'UTF8'))), 'hex')
    || '.' || payload::text;
END $$;

-- The verified ticket of this transaction. NULL: there is none, so no rows. A ticket that is
-- malformed, forged, of another transaction or expired raises: a silent zero once let a DELETE
-- of nothing commit as a success.
CREATE OR REPLACE FUNCTION scopefloor.ticket() RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  raw text := current_setting('scopefloor.ticket', true);
  body text;
  payload jsonb;
  s scopefloor.ticket_secret;
BEGIN
  -- A custom setting is '' rather than NULL once a transaction that set it has ended.
  IF raw IS NULL OR raw = '' THEN
    RETURN NULL;
  END IF;
  IF raw !~ '^[0-9]{1,9}\.[0-9a-f]{64}\.\{' THEN
    RAISE EXCEPTION 'scopefloor: malformed ticket' USING ERRCODE = 'insufficient_privilege';
  END IF;
  SELECT * INTO s FROM scopefloor.ticket_secret WHERE id = split_part(raw, '.', 1)::int;
  body := substring(raw FROM position('{' IN raw));
  IF s.id IS NULL OR split_part(raw, '.', 2)
     <> encode(sha256(s.outer_pad || sha256(s.inner_pad || convert_to(body, 'UTF8'))), 'hex') THEN
    RAISE EXCEPTION 'scopefloor: forged ticket' USING ERRCODE = 'insufficient_privilege';
  END IF;
  payload := body::jsonb;
  IF (payload->>'pid')::int <> pg_backend_pid()
     OR (payload->>'began')::numeric <> extract(epoch FROM transaction_timestamp()) THEN
    RAISE EXCEPTION 'scopefloor: ticket of another transaction' USING ERRCODE = 'insufficient_privilege';
  END IF;
  IF (payload->>'until')::numeric < extract(epoch FROM clock_timestamp()) THEN
    RAISE EXCEPTION 'scopefloor: expired ticket' USING ERRCODE = 'insufficient_privilege';
  END IF;
  RETURN payload;
END $$;

-- The ticket of a transaction that forgets.
CREATE OR REPLACE FUNCTION scopefloor.forget_ticket() RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
BEGIN
  IF t IS NULL OR t->>'mode' NOT IN ('delete', 'forget', 'erase') THEN
    RAISE EXCEPTION 'scopefloor: not a ticket for forgetting' USING ERRCODE = 'insufficient_privilege';
  END IF;
  RETURN t;
END $$;

-- The ticket of a call that manages keys: 'manage' for the management routes, 'self' for a key's own.
CREATE OR REPLACE FUNCTION scopefloor.key_ticket() RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
BEGIN
  IF t IS NULL OR t->>'verb' NOT IN ('manage', 'self') THEN
    RAISE EXCEPTION 'scopefloor: no ticket for keys' USING ERRCODE = 'insufficient_privilege';
  END IF;
  RETURN t;
END $$;

-- The management ticket of a key that may do all there is in its floor: what changes the Context, or makes
-- work for everybody in the floor, is no matter for one that has less. NULL otherwise.
CREATE OR REPLACE FUNCTION scopefloor.full_ticket() RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.key_ticket();
BEGIN
  IF t->>'verb' = 'manage' AND (t->>'content')::bool AND t->'verbs' @> '["memory:read", "memory:write", "memory:forget"]' THEN
    RETURN t;
  END IF;
  RETURN NULL;
END $$;

-- What a management key with less than that is answered.
CREATE OR REPLACE FUNCTION scopefloor.needs_every_right() RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT '{"status": "forbidden", "detail": "this needs a management key with content and the verbs memory:read, memory:write and memory:forget"}'::jsonb
$$;

-- The ticket of a job's transaction.
CREATE OR REPLACE FUNCTION scopefloor.job_ticket() RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
BEGIN
  IF t IS NULL OR t->>'job' IS NULL THEN
    RAISE EXCEPTION 'scopefloor: not in a job' USING ERRCODE = 'insufficient_privilege';
  END IF;
  RETURN t;
END $$;

-- The ticket of a transaction that writes.
CREATE OR REPLACE FUNCTION scopefloor.write_ticket() RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
BEGIN
  IF t IS NULL OR t->>'write' IS NULL THEN
    RAISE EXCEPTION 'scopefloor: no write ticket' USING ERRCODE = 'insufficient_privilege';
  END IF;
  RETURN t;
END $$;
