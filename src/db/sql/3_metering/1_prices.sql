-- Prices, and what a trace costs: it is priced when it is written, by what was in effect then.

-- The price of a model at a time: one for `provider:model` goes before one for the model's name alone.
CREATE OR REPLACE FUNCTION scopefloor.model_price(of_provider text, of_model text, at_time timestamptz) RETURNS scopefloor.price
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  found scopefloor.price;
BEGIN
  FOR i IN 1..2 LOOP
    SELECT * INTO found FROM scopefloor.price p
    WHERE p.kind = 'model' AND p.name = CASE i WHEN 1 THEN concat_ws(':', of_provider, of_model) ELSE coalesce(of_model, of_provider) END AND p.effective_from <= at_time
    ORDER BY p.effective_from DESC LIMIT 1;
    EXIT WHEN found.id IS NOT NULL;
  END LOOP;
  RETURN found;
END $$;

-- The operation whose price a tool of MCP has: what it does by another door costs the same.
CREATE OR REPLACE FUNCTION scopefloor.priced_as(of_operation text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT coalesce('{"mcp_remember": "facts", "mcp_recall": "query"}'::jsonb->>of_operation, substring(of_operation FROM '^mcp_(.*)$'), of_operation)
$$;

-- What a call costs in USD: its model's tokens, and the price of the operation by itself. NULL: the model
-- has no price for tokens that were used. A model of the service's own process (`local`) costs nothing
-- where it has none.
CREATE OR REPLACE FUNCTION scopefloor.cost_of(of_operation text, of_provider text, of_model text, input bigint, cached bigint, output bigint, embedding bigint, at_time timestamptz) RETURNS numeric
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  p scopefloor.price;
  from_cache bigint := least(cached, input);
  of_call numeric := coalesce((SELECT o.per_call FROM scopefloor.price o WHERE o.kind = 'operation' AND o.name = scopefloor.priced_as(of_operation) AND o.effective_from <= at_time
                               ORDER BY o.effective_from DESC LIMIT 1), 0);
BEGIN
  IF of_provider IS NULL THEN
    RETURN of_call;
  END IF;
  p := scopefloor.model_price(of_provider, of_model, at_time);
  IF p.id IS NULL THEN
    RETURN CASE WHEN of_provider = 'local' THEN of_call END;
  END IF;
  -- Tokens of a kind that there are none of need no price.
  RETURN of_call + (coalesce((input - from_cache) * p.input, CASE WHEN input = from_cache THEN 0 END)
                    + coalesce(from_cache * coalesce(p.cached_input, p.input), CASE WHEN from_cache = 0 THEN 0 END)
                    + coalesce(output * p.output, CASE WHEN output = 0 THEN 0 END)
                    + coalesce(embedding * p.embedding, CASE WHEN embedding = 0 THEN 0 END)) * 0.000001;
END $$;

-- Trigger: no trace says its own cost.
CREATE OR REPLACE FUNCTION scopefloor.price_trace() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  NEW.cost_usd := CASE WHEN NEW.kind = 'denied' THEN 0 ELSE scopefloor.cost_of(NEW.operation, NEW.provider, NEW.model, NEW.input_tokens, NEW.cached_input_tokens,
                                                                              NEW.output_tokens, NEW.embedding_tokens, NEW.created_at) END;
  RETURN NEW;
END $$;

-- The ticket of the operator, who alone sets prices: management with the floor {} and every right.
CREATE OR REPLACE FUNCTION scopefloor.operator_ticket() RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.full_ticket();
BEGIN
  RETURN CASE WHEN t->'floor' = '{}' THEN t END;
END $$;

-- A row of `price` as the API gives it.
CREATE OR REPLACE FUNCTION scopefloor.price_answer(p scopefloor.price) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT jsonb_build_object('id', p.id, 'effectiveFrom', scopefloor.rfc3339(p.effective_from), 'createdAt', scopefloor.rfc3339(p.created_at)) || CASE p.kind
    WHEN 'model' THEN jsonb_build_object('model', p.name) || jsonb_strip_nulls(jsonb_build_object(
      'inputPerMillion', p.input, 'cachedInputPerMillion', p.cached_input, 'outputPerMillion', p.output, 'embeddingPerMillion', p.embedding))
    WHEN 'operation' THEN jsonb_build_object('operation', p.name, 'perCall', p.per_call)
    ELSE jsonb_build_object('storagePerGbMonth', p.per_gb_month) END
$$;

-- Sets a price from a time on, or from now; what was written before keeps its cost. Of a model, what is left out stays
-- as it was in effect then. NULL for anybody but the operator.
CREATE OR REPLACE FUNCTION scopefloor.set_price(new_id uuid, of_kind text, of_name text, given jsonb, given_since timestamptz) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.operator_ticket();
  since timestamptz := coalesce(given_since, transaction_timestamp());
  p scopefloor.price;
BEGIN
  IF t IS NULL THEN
    RETURN NULL;
  END IF;
  IF of_kind NOT IN ('model', 'operation', 'storage') THEN
    RAISE EXCEPTION 'scopefloor: no price is of the kind %', of_kind USING ERRCODE = 'check_violation';
  END IF;
  SELECT * INTO p FROM scopefloor.price o WHERE o.kind = of_kind AND o.name = of_name AND o.effective_from <= since ORDER BY o.effective_from DESC LIMIT 1;
  INSERT INTO scopefloor.price (id, kind, name, input, cached_input, output, embedding, per_call, per_gb_month, effective_from, api_key_id)
  VALUES (new_id, of_kind, of_name,
          coalesce((given->>'inputPerMillion')::numeric, p.input), coalesce((given->>'cachedInputPerMillion')::numeric, p.cached_input),
          coalesce((given->>'outputPerMillion')::numeric, p.output), coalesce((given->>'embeddingPerMillion')::numeric, p.embedding),
          (given->>'perCall')::numeric, (given->>'storagePerGbMonth')::numeric, since, (t->>'key')::uuid)
  ON CONFLICT (kind, name, effective_from) DO UPDATE SET
    input = EXCLUDED.input, cached_input = EXCLUDED.cached_input, output = EXCLUDED.output, embedding = EXCLUDED.embedding,
    per_call = EXCLUDED.per_call, per_gb_month = EXCLUDED.per_gb_month, api_key_id = EXCLUDED.api_key_id
  RETURNING * INTO p;
  RETURN scopefloor.price_answer(p);
END $$;

-- Every price, for whoever may read usage: by name, the newest first.
CREATE OR REPLACE FUNCTION scopefloor.list_prices() RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t jsonb := scopefloor.ticket();
BEGIN
  IF t IS NULL OR t->>'verb' NOT IN ('manage', 'usage:read') THEN
    RAISE EXCEPTION 'scopefloor: no ticket for prices' USING ERRCODE = 'insufficient_privilege';
  END IF;
  RETURN (SELECT coalesce(jsonb_agg(scopefloor.price_answer(p) ORDER BY p.kind, p.name, p.effective_from DESC), '[]') FROM scopefloor.price p);
END $$;

-- Takes a price out, by its id or all of a name. How many; NULL for anybody but the operator.
CREATE OR REPLACE FUNCTION scopefloor.drop_price(of_id uuid, of_kind text, of_name text) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  dropped int;
BEGIN
  IF scopefloor.operator_ticket() IS NULL THEN
    RETURN NULL;
  END IF;
  DELETE FROM scopefloor.price p WHERE p.id = of_id OR (of_id IS NULL AND p.kind = of_kind AND p.name = of_name);
  GET DIAGNOSTICS dropped = ROW_COUNT;
  RETURN dropped;
END $$;
