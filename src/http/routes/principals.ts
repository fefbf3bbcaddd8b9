import { z } from "zod";
import type { KeyVerb } from "../../db/access/entry.ts";
import { invalid, unprocessable } from "../../errors.ts";
import { type ApiKey, changeVerbs, grantsOf, KEY_VERBS, knownKey, knownKeys } from "../../keys/keys.ts";
import { holds, merge, scopeFromDatabase } from "../../scope/scope.ts";
import { parseSelector } from "../../scope/selector.ts";
import { endpoint, type Request } from "../endpoint.ts";
import { fields, querySelector, uuidText } from "../wire/fields.ts";
import { grantedPaths, instant, object, principalKind, uuid } from "../wire/shapes.ts";
import { time, untilTime } from "../wire/times.ts";

const id = z.object({ id: uuidText });
const self = { verb: "self" } as const;

/** A principal is a key, under the key's id. */
const principalOf = (key: ApiKey) => ({
  id: key.id,
  displayName: key.name,
  kind: key.principal,
  grants: grantsOf(scopeFromDatabase(key.scopeFloor), key.verbs),
});

const grants = z.partialRecord(z.enum(KEY_VERBS), z.array(z.string()).min(1));

/** The verbs that a body names; the paths must be the floor's own, since a floor does not change. */
function verbsNamed(
  body: {
    grants?: Partial<Record<KeyVerb, string[]>> | undefined;
    verbs?: KeyVerb[] | undefined;
    path?: string | undefined;
  },
  key: ApiKey,
): KeyVerb[] {
  if ((body.grants === undefined) === (body.verbs === undefined)) throw invalid("give either grants or verbs");
  const floor = scopeFromDatabase(key.scopeFloor);
  if (body.path !== undefined && body.verbs === undefined) throw invalid("path goes with verbs");
  for (const path of [...Object.values(body.grants ?? {}).flat(), ...(body.path === undefined ? [] : [body.path])]) {
    const clauses = parseSelector(path) ?? [];
    if (!clauses.every(({ tags }) => holds(floor, tags) && holds(tags, floor))) {
      throw unprocessable("a key's scope floor does not change: mint a narrower key for another path");
    }
  }
  return KEY_VERBS.filter((verb) => body.verbs?.includes(verb) || body.grants?.[verb] !== undefined);
}

const change = fields({
  grants: grants.optional(),
  verbs: z.array(z.enum(KEY_VERBS)).optional(),
  path: z.string().min(1).max(1_000).optional().describe("The key's floor, with the verbs that are meant"),
  asOf: time.optional(),
});

/** @param keep the verbs that are left, of a key and of those that the body names */
const changeGrants = (
  enter: Request<unknown, unknown, unknown>["enter"],
  id: string,
  body: z.output<typeof change>,
  keep: (key: ApiKey, named: readonly KeyVerb[]) => readonly KeyVerb[],
) =>
  enter({}, async (tx) => {
    const key = await knownKey(tx, id);
    return principalOf(await changeVerbs(tx, id, keep(key, verbsNamed(body, key))));
  });

const principalResponse = object({ id: uuid, displayName: z.string(), kind: principalKind, grants: grantedPaths });
const principalsResponse = z.array(principalResponse);
const effectiveResponse = object({ path: z.string(), verbs: z.array(z.enum(KEY_VERBS)), asOf: instant.optional() });

export const principalEndpoints = [
  endpoint({
    ...self,
    method: "get",
    path: "/{ctx}/principals",
    operation: "principals",
    summary: "The keys that the key may know of",
    answer: principalsResponse,
    handle: ({ enter }) => enter({}, async (tx) => (await knownKeys(tx)).map(principalOf)),
  }),
  endpoint({
    ...self,
    method: "get",
    path: "/{ctx}/principals/{id}",
    operation: "principals",
    summary: "One of them",
    answer: principalResponse,
    params: id,
    handle: ({ enter, params }) => enter({}, async (tx) => principalOf(await knownKey(tx, params.id))),
  }),
  endpoint({
    ...self,
    method: "get",
    path: "/{ctx}/principals/{id}/effective",
    operation: "principals",
    summary: "What a principal may at a path",
    answer: effectiveResponse,
    params: id,
    query: fields({ path: querySelector, asOf: untilTime.optional() }),
    handle: ({ enter, params, query }) => {
      const [clause, ...more] = query.path ?? [];
      if (more.length > 0) throw unprocessable("path names exactly one scope");
      return enter({}, async (tx) => {
        const key = await knownKey(tx, params.id);
        const floor = scopeFromDatabase(key.scopeFloor);
        // What contradicts the floor is out of reach; everything else ends up at R ∪ F, inside it.
        const isReachable = clause === undefined || merge(clause.tags, floor) !== undefined;
        const existed = query.asOf === undefined || key.createdAt <= query.asOf;
        return {
          path:
            grantsOf(clause === undefined ? floor : clause.tags, ["memory:read"])["memory:read"]?.[0]?.replace(
              /\/\*$/,
              "",
            ) || "/",
          verbs: isReachable && existed && key.content ? key.verbs : [],
          ...(query.asOf === undefined ? {} : { asOf: query.asOf }),
        };
      });
    },
  }),
  endpoint({
    ...self,
    method: "post",
    path: "/{ctx}/principals/{id}/grants",
    operation: "narrow_key",
    summary: "Leave a key the verbs that are named, or give back what was taken",
    answer: principalResponse,
    // To narrow again changes nothing, and the answer names the key's floor.
    readsOnly: () => true,
    params: id,
    body: change,
    handle: ({ enter, params, body }) => changeGrants(enter, params.id, body, (_, wanted) => wanted),
  }),
  endpoint({
    ...self,
    method: "delete",
    path: "/{ctx}/principals/{id}/grants",
    operation: "narrow_key",
    summary: "Take the verbs that are named from a key",
    answer: principalResponse,
    params: id,
    body: change,
    handle: ({ enter, params, body }) =>
      changeGrants(enter, params.id, body, (key, without) => key.verbs.filter((verb) => !without.includes(verb))),
  }),
];
