-- The end of a hold (3_holds.sql): its trace settles it, or it expires, or it is given back.

-- Gives holds back whose requests are over without a trace, of calls that no provider can have had:
--   ended  [{id, keyHash (hex)}]
CREATE OR REPLACE FUNCTION scopefloor.end_holds(ended jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  UPDATE scopefloor.budget_hold h SET expires_at = '-infinity'
  FROM jsonb_array_elements(ended) e, scopefloor.api_key k
  WHERE h.id = (e->>'id')::uuid AND k.id = h.api_key_id AND h.state = 'held' AND sha256(decode(e->>'keyHash', 'hex')) IN (k.secret_hash, k.previous_hash);
END $$;

-- The same for a hold of the ticket's job.
CREATE OR REPLACE FUNCTION scopefloor.end_job_hold(of_id uuid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.job_ticket();
BEGIN
  UPDATE scopefloor.budget_hold h SET expires_at = '-infinity'
  WHERE h.scope_id = (t->>'write')::int AND h.id = of_id AND h.api_key_id = (t->>'key')::uuid AND h.state = 'held';
END $$;

-- A job whose work takes long says that its hold is still needed.
CREATE OR REPLACE FUNCTION scopefloor.extend_job_hold(of_id uuid, ttl_seconds int) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.job_ticket();
BEGIN
  IF ttl_seconds NOT BETWEEN 1 AND 3600 THEN
    RAISE EXCEPTION 'scopefloor: no hold lasts for % s', ttl_seconds USING ERRCODE = 'insufficient_privilege';
  END IF;
  UPDATE scopefloor.budget_hold h SET expires_at = clock_timestamp() + make_interval(secs => ttl_seconds)
  WHERE h.scope_id = (t->>'write')::int AND h.id = of_id AND h.api_key_id = (t->>'key')::uuid AND h.state IN ('held', 'sent');
END $$;

-- Settles holds: those whose trace is there by what it says, and expired ones by what may have been spent.
-- Gives how many it went through, at most so many; of these budgets and limits alone, or of all.
CREATE OR REPLACE FUNCTION scopefloor.fold_holds(most int, of_budgets uuid[] DEFAULT NULL, of_limits uuid[] DEFAULT '{}') RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  folded int;
  changes jsonb;
  over jsonb;
  change record;
  w scopefloor.budget_window;
  rs scopefloor.limit_rate[];
  now_at timestamptz := clock_timestamp();
  now_second bigint := extract(epoch FROM now_at)::bigint;
BEGIN
  WITH due AS MATERIALIZED (
    SELECT h.scope_id, h.id, h.budget_ids, h.starts, h.limit_ids, h.calls, h.second, h.tokens, h.cost, h.requests, h.state, h.expires_at, h.created_at, d.id IS NOT NULL AS is_settled, d.total_tokens, d.cost_usd
    FROM scopefloor.budget_hold h
    LEFT JOIN LATERAL (SELECT t.id, t.total_tokens, t.cost_usd FROM scopefloor.decision_trace t WHERE t.id = h.id AND t.created_at >= h.created_at - interval '1 hour' LIMIT 1) d ON true
    WHERE (of_budgets IS NULL OR h.budget_ids && of_budgets OR h.limit_ids && of_limits)
      -- A transaction that was entered with a hold in time may take a while to commit.
      AND (d.id IS NOT NULL OR (h.state IN ('held', 'sent') AND (h.expires_at = '-infinity' OR h.expires_at < now_at - interval '1 minute'))
           OR h.created_at < now_at - interval '1 day')
    LIMIT most FOR UPDATE OF h SKIP LOCKED),
  kept AS (
    -- What a provider may have had costs what was held, until its trace comes.
    UPDATE scopefloor.budget_hold h SET state = 'charged'
    FROM due WHERE h.scope_id = due.scope_id AND h.id = due.id AND NOT due.is_settled AND due.state = 'sent'),
  over AS (
    DELETE FROM scopefloor.budget_hold h USING due
    WHERE h.scope_id = due.scope_id AND h.id = due.id AND (due.is_settled OR due.state <> 'sent')),
  moved AS (
    SELECT b.id AS budget_id, s.starts, due.state, due.tokens, due.cost, due.requests, due.state IN ('held', 'sent') AS was_held,
      CASE WHEN due.is_settled THEN due.total_tokens WHEN due.state IN ('sent', 'charged') THEN due.tokens ELSE 0 END AS spent_tokens,
      CASE WHEN due.is_settled THEN coalesce(due.cost_usd, due.cost) WHEN due.state IN ('sent', 'charged') THEN due.cost ELSE 0 END AS spent_cost,
      CASE WHEN due.is_settled OR due.state IN ('sent', 'charged') THEN due.requests ELSE 0 END AS spent_requests
    FROM due, unnest(due.budget_ids) WITH ORDINALITY b(id, n) JOIN unnest(due.starts) WITH ORDINALITY s(starts, n) USING (n)),
  summed AS (
    SELECT m.budget_id, m.starts,
      sum(m.spent_tokens - CASE WHEN m.state = 'charged' THEN m.tokens ELSE 0 END) AS used_tokens,
      sum(m.spent_cost - CASE WHEN m.state = 'charged' THEN m.cost ELSE 0 END) AS used_cost,
      sum(m.spent_requests - CASE WHEN m.state = 'charged' THEN m.requests ELSE 0 END) AS used_requests,
      sum(CASE WHEN m.was_held THEN m.tokens ELSE 0 END) AS held_tokens,
      sum(CASE WHEN m.was_held THEN m.cost ELSE 0 END) AS held_cost,
      sum(CASE WHEN m.was_held THEN m.requests ELSE 0 END) AS held_requests
    FROM moved m GROUP BY 1, 2)
  SELECT (SELECT count(*) FROM due), (SELECT jsonb_agg(to_jsonb(s)) FROM summed s),
         -- A call is over once; what its model did not use was not used in that second.
         (SELECT jsonb_agg(to_jsonb(x)) FROM (
            SELECT l.id AS limit_id, d.second, sum(d.calls) AS calls,
                   sum(CASE WHEN d.is_settled THEN d.total_tokens WHEN d.state = 'sent' THEN d.tokens ELSE 0 END - d.tokens) AS tokens
            FROM due d, unnest(d.limit_ids) l(id) WHERE d.state IN ('held', 'sent') GROUP BY 1, 2) x)
  INTO folded, changes, over;

  FOR change IN
    SELECT l AS scope_limit, c.* FROM jsonb_to_recordset(coalesce(over, '[]')) AS c(limit_id uuid, second bigint, calls bigint, tokens bigint)
    JOIN scopefloor.scope_limit l ON l.id = c.limit_id JOIN scopefloor.scope s ON s.id = l.scope_id
    ORDER BY scopefloor.tag_count(s.tags) DESC, l.id, c.second
  LOOP
    rs := scopefloor.lock_rates(ARRAY[change.scope_limit], now_second);
    CONTINUE WHEN rs[1] IS NULL;
    rs[1].running := greatest(0, (rs[1]).running - change.calls);
    IF now_second - change.second <= 60 THEN
      rs[1].tokens[change.second % 61 + 1] := greatest(0, (rs[1]).tokens[change.second % 61 + 1] + change.tokens);
    END IF;
    PERFORM scopefloor.write_rates(rs);
  END LOOP;

  FOR change IN
    SELECT b AS budget, c.* FROM jsonb_to_recordset(coalesce(changes, '[]')) AS c(budget_id uuid, starts timestamptz, used_tokens bigint, used_cost numeric,
      used_requests bigint, held_tokens bigint, held_cost numeric, held_requests bigint)
    JOIN scopefloor.budget b ON b.id = c.budget_id JOIN scopefloor.scope s ON s.id = b.scope_id
    ORDER BY scopefloor.tag_count(s.tags) DESC, b.id, c.starts
  LOOP
    UPDATE scopefloor.budget_window o SET
      used_tokens = o.used_tokens + change.used_tokens, used_cost = o.used_cost + change.used_cost, used_requests = o.used_requests + change.used_requests,
      held_tokens = o.held_tokens - change.held_tokens, held_cost = o.held_cost - change.held_cost, held_requests = o.held_requests - change.held_requests
    WHERE o.scope_id = (change.budget).scope_id AND o.budget_id = change.budget_id AND o.starts = change.starts RETURNING * INTO w;
    CONTINUE WHEN NOT FOUND;
    PERFORM scopefloor.tell_thresholds(change.budget, w);
  END LOOP;
  RETURN folded;
END $$;

-- Notes the shares of a budget that were reached and not told of in this period. Where it has just refused a call,
-- that is all of it, whatever is left.
CREATE OR REPLACE FUNCTION scopefloor.tell_thresholds(b scopefloor.budget, w scopefloor.budget_window, has_refused bool DEFAULT false) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  most_tokens bigint := b.token_limit + CASE WHEN b.more_until > clock_timestamp() THEN b.more_tokens ELSE 0 END;
  most_cost numeric := b.cost_limit + CASE WHEN b.more_until > clock_timestamp() THEN b.more_cost ELSE 0 END;
  share numeric := greatest(w.used_tokens / nullif(most_tokens, 0)::numeric,
                            w.used_cost / nullif(most_cost, 0), w.used_requests / nullif(b.request_limit, 0)::numeric,
                            CASE WHEN has_refused THEN 1 END);
BEGIN
  IF share IS NULL OR NOT EXISTS (SELECT 1 FROM unnest(b.alert_at) a WHERE a > w.alerted AND a <= share) THEN
    RETURN;
  END IF;
  INSERT INTO scopefloor.budget_event (tenant_id, scope_id, id, budget_id, starts, threshold, used_tokens, used_cost, used_requests)
  SELECT b.tenant_id, b.scope_id, gen_random_uuid(), b.id, w.starts, a, w.used_tokens, w.used_cost, w.used_requests FROM unnest(b.alert_at) a WHERE a > w.alerted AND a <= share
  ON CONFLICT DO NOTHING;
  UPDATE scopefloor.budget_window o SET alerted = (SELECT max(a) FROM unnest(b.alert_at) a WHERE a <= share)
  WHERE o.scope_id = w.scope_id AND o.budget_id = w.budget_id AND o.starts = w.starts;
END $$;

-- Records what a request spent on models where its own trace does not say it: the request failed, or the call
-- did. At the scope that the request was for, under the id of its hold where it had one.
--   spent  {id, operation, requested, onBehalfOf, provider, model, inputTokens, embeddingTokens, tokenSource, durationMs, status}
CREATE OR REPLACE FUNCTION scopefloor.record_spent(key_hash bytea, spent jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  k scopefloor.api_key := scopefloor.live_key(key_hash);
  caller record;
  place record;
  named record;
  at_tags jsonb;
  traced scopefloor.scope;
BEGIN
  IF k.id IS NULL THEN
    -- Revoked since: its last call stands where it stood.
    SELECT * INTO k FROM scopefloor.api_key a WHERE a.secret_hash = sha256(key_hash);
    IF k.id IS NULL THEN
      RETURN;
    END IF;
  END IF;
  at_tags := k.floor;
  caller := scopefloor.authenticate(key_hash, spent->>'onBehalfOf');
  IF caller.refusal IS NULL THEN
    place := scopefloor.resolve_place(caller.k, caller.floor, CASE WHEN spent->'requested'->>'mode' = 'write' THEN spent->'requested' ELSE '{}' END);
    IF place.refusal IS NULL THEN
      named := scopefloor.resolve_clauses(caller.floor, spent->'requested', spent->'requested'->>'mode', 'strict', place.fixed);
      at_tags := CASE WHEN named.refusal IS NULL THEN coalesce(named.shared, caller.floor) ELSE caller.floor END;
    END IF;
  END IF;
  PERFORM scopefloor.hold_scope(at_tags);
  -- No request is under way for longer than a minute.
  IF scopefloor.was_erased(at_tags, clock_timestamp() - interval '1 minute') THEN
    at_tags := k.floor;
  END IF;
  SELECT * INTO traced FROM scopefloor.scope s WHERE s.tags = at_tags;
  IF traced.id IS NULL THEN
    SELECT * INTO traced FROM scopefloor.scope s WHERE s.id = k.scope_id;
  END IF;
  INSERT INTO scopefloor.decision_trace (id, kind, operation, tenant_id, scope_id, scope, elsewhere, api_key_id, principal, provider, model,
                                         input_tokens, embedding_tokens, token_source, duration_ms, status)
  VALUES ((spent->>'id')::uuid, 'model', left(spent->>'operation', 40), traced.tenant_id, traced.id, at_tags, traced.tags <> at_tags, k.id, k.principal,
          left(spent->>'provider', 200), left(spent->>'model', 200), (spent->>'inputTokens')::int, (spent->>'embeddingTokens')::int,
          CASE WHEN spent->>'tokenSource' IN ('provider', 'tokenizer') THEN spent->>'tokenSource' END, (spent->>'durationMs')::real,
          CASE WHEN spent->>'status' = 'ok' THEN 'ok' ELSE 'error' END);
END $$;

-- Runs fold_holds for the budgets and limits with these ids, as hold_calls has told them.
CREATE OR REPLACE FUNCTION scopefloor.fold_calls(of_rules uuid[]) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN scopefloor.fold_holds(1000, of_rules, of_rules);
END $$;

-- Records what a job's call used whose job was gone when it came back: its scope was erased, or another has done
-- the work. Everything but the numbers is the hold's.
CREATE OR REPLACE FUNCTION scopefloor.record_lost_call(of_id uuid, used jsonb, source text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  h scopefloor.budget_hold;
BEGIN
  SELECT * INTO h FROM scopefloor.budget_hold o WHERE o.id = of_id AND o.state IN ('sent', 'charged');
  IF h.id IS NULL THEN
    RETURN;
  END IF;
  -- An erasure that is under way ends first: its scope has a marker then.
  PERFORM scopefloor.hold_scope((SELECT s.tags - '!erased' FROM scopefloor.scope s WHERE s.id = h.scope_id));
  INSERT INTO scopefloor.decision_trace (id, kind, operation, tenant_id, scope_id, scope, api_key_id, principal, provider, model, input_tokens, output_tokens, embedding_tokens, token_source, duration_ms, status)
  SELECT h.id, 'model', h.operation, h.tenant_id, h.scope_id, s.tags, k.id, k.principal, h.provider, h.model,
         (used->>'input')::int, (used->>'output')::int, (used->>'embedding')::int,
         CASE WHEN source IN ('provider', 'tokenizer') THEN source END, 0, 'error'
  FROM scopefloor.scope s, scopefloor.api_key k WHERE s.id = h.scope_id AND k.id = h.api_key_id;
END $$;

-- Runs fold_holds for the budgets and limits at the ticket's target and below, so that a list of them says how it
-- is now. In a transaction of its own.
CREATE OR REPLACE FUNCTION scopefloor.fold_own_holds() RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
  is_all bool := (t->'read'->>'all')::bool;
  ids int[] := scopefloor.ids_in(t->'read');
BEGIN
  IF t IS NULL OR t->>'verb' NOT IN ('manage', 'usage:read', 'self') THEN
    RAISE EXCEPTION 'scopefloor: no ticket for budgets' USING ERRCODE = 'insufficient_privilege';
  END IF;
  IF is_all THEN
    RETURN scopefloor.fold_holds(1000);
  END IF;
  RETURN scopefloor.fold_holds(1000, ARRAY(SELECT b.id FROM scopefloor.budget b WHERE b.scope_id = ANY (ids)),
                               ARRAY(SELECT l.id FROM scopefloor.scope_limit l WHERE l.scope_id = ANY (ids)));
END $$;
