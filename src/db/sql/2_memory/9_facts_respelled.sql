-- Names and keys of facts that are there already, brought to the spelling of the service's present version
-- (7_facts.sql says how facts are kept).

-- Gives entities and keys at a job's scope the forms of their names that the service has now:
-- [{id, identity, folded}] and [{key, normalKey}]. What becomes one is put together with its history.
CREATE OR REPLACE FUNCTION scopefloor.respell_facts(entities jsonb, keys jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.job_ticket();
  at_scope int := (t->>'write')::int;
  secret bytea;
  named record;
  survivor uuid;
  touched uuid[] := '{}';
  key record;
BEGIN
  secret := scopefloor.word_secret((t->>'tenant')::int, at_scope);
  PERFORM 1 FROM scopefloor.entity e WHERE e.scope_id = at_scope ORDER BY e.identity FOR NO KEY UPDATE;
  FOR named IN SELECT e.id, e.identity, e.folded FROM jsonb_to_recordset(entities) AS e(id uuid, identity text, folded text) ORDER BY e.id LOOP
    SELECT e.id INTO survivor FROM scopefloor.entity e WHERE e.scope_id = at_scope AND e.name_hash = scopefloor.word_hash(secret, named.identity) AND e.id <> named.id;
    IF survivor IS NOT NULL THEN
      UPDATE scopefloor.attribute a SET entity_id = survivor WHERE a.scope_id = at_scope AND a.entity_id = named.id;
      UPDATE scopefloor.relation r SET entity_id = survivor WHERE r.scope_id = at_scope AND r.entity_id = named.id;
      UPDATE scopefloor.relation r SET target_id = survivor WHERE r.scope_id = at_scope AND r.target_id = named.id;
      DELETE FROM scopefloor.entity e WHERE e.scope_id = at_scope AND e.id = named.id;
    END IF;
    UPDATE scopefloor.entity e SET identity = named.identity, folded = named.folded WHERE e.scope_id = at_scope AND e.id = coalesce(survivor, named.id);
    touched := touched || survivor || ARRAY(SELECT r.entity_id FROM scopefloor.relation r WHERE r.scope_id = at_scope AND r.target_id = survivor);
  END LOOP;
  WITH respelled AS (
    UPDATE scopefloor.attribute a SET normal_key = k."normalKey" FROM jsonb_to_recordset(keys) AS k(key text, "normalKey" text)
    WHERE a.scope_id = at_scope AND a.key = k.key AND a.normal_key <> k."normalKey" RETURNING a.entity_id),
  renamed AS (
    UPDATE scopefloor.relation r SET normal_key = k."normalKey" FROM jsonb_to_recordset(keys) AS k(key text, "normalKey" text)
    WHERE r.scope_id = at_scope AND r.key = k.key AND r.normal_key <> k."normalKey" RETURNING r.entity_id)
  SELECT touched || coalesce(array_agg(x.entity_id), '{}') INTO touched FROM (SELECT * FROM respelled UNION SELECT * FROM renamed) x;
  FOR key IN
    SELECT DISTINCT 'attribute' AS kind, a.entity_id, a.key_hash FROM scopefloor.attribute a WHERE a.scope_id = at_scope AND a.entity_id = ANY (touched)
    UNION SELECT DISTINCT 'relation', r.entity_id, r.key_hash FROM scopefloor.relation r WHERE r.scope_id = at_scope AND r.entity_id = ANY (touched)
  LOOP
    PERFORM scopefloor.settle_facts(at_scope, key.kind, key.entity_id, key.key_hash, NULL, NULL, NULL, NULL, '[]', NULL);
  END LOOP;
END $$;
