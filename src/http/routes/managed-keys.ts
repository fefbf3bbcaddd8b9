import { z } from "zod";
import { invalid } from "../../errors.ts";
import { type ApiKey, KEY_VERBS, listKeys, mintKey, revokeKey, rotateKey } from "../../keys/keys.ts";
import { endpoint } from "../endpoint.ts";
import { subtreeOf } from "../wire/access.ts";
import {
  defaultView,
  fields,
  graceSeconds,
  keepChildren,
  keyName,
  keyVerbs,
  pageAndSize,
  querySelector,
  scopeObject,
  ttlSeconds,
} from "../wire/fields.ts";
import { instant, object, pageShape, principalKind, scopeTags, uuid } from "../wire/shapes.ts";
import { expiry, time } from "../wire/times.ts";

const newKey = fields({
  name: keyName,
  principal: z.enum(["agent", "supervisor", "management"]),
  scopeFloor: scopeObject.optional(),
  verbs: keyVerbs.optional(),
  content: z.boolean().optional(),
  defaultView: defaultView
    .optional()
    .describe("What it sees where a request names no view: strict for agents, subtree for others"),
  ttlSeconds: z.int().min(1).max(999_999_999).optional(),
  expiresAt: time.optional(),
});

/** When a new key ends; both ways of saying it at once are one too many. */
function endOf(body: { ttlSeconds?: number | undefined; expiresAt?: string | undefined }): string | undefined {
  if (body.ttlSeconds !== undefined && body.expiresAt !== undefined)
    throw invalid("give ttlSeconds or expiresAt, not both");
  if (body.expiresAt !== undefined && Date.parse(body.expiresAt) <= Date.now())
    throw invalid("expiresAt is in the past");
  return body.expiresAt ?? expiry(body.ttlSeconds);
}

function minted({ secret, ...key }: ApiKey & { secret: string }) {
  const { id, name, principal, scopeFloor, verbs: granted, content, defaultView: view, createdAt, expiresAt } = key;
  return {
    id,
    name,
    principal,
    scopeFloor,
    verbs: granted,
    content,
    defaultView: view,
    key: secret,
    createdAt,
    expiresAt,
  };
}

const idOrName = z.object({ idOrName: z.string().min(1).max(200) });

const keyShape = {
  id: uuid,
  name: z.string(),
  principal: principalKind,
  scopeFloor: scopeTags,
  verbs: z.array(z.enum(KEY_VERBS)),
  content: z.boolean(),
  defaultView,
  createdAt: instant,
  expiresAt: instant.nullable(),
};

const mintedKeyResponse = object({ ...keyShape, key: z.string() });
const child = object({ id: uuid, name: z.string() });
const rotatedKeyResponse = object({ ...keyShape, key: z.string(), children: z.array(child) });
const keysResponse = object({
  keys: z.array(
    object({
      ...keyShape,
      status: z.enum(["active", "expired", "revoked"]),
      createdBy: uuid.nullable(),
      lastUsedAt: instant.nullable(),
      revokedAt: instant.nullable(),
    }),
  ),
  ...pageShape,
});

export const managedKeyEndpoints = [
  endpoint({
    method: "post",
    path: "/contexts/{ctx}/keys",
    verb: "manage",
    operation: "mint_key",
    summary: "Mint a key; the secret is in this answer alone",
    answer: mintedKeyResponse,
    status: 201,
    secret: true,
    body: newKey,
    handle: ({ enter, body }) => {
      const expiresAt = endOf(body);
      return enter({}, async (tx) =>
        minted(
          await mintKey(tx, {
            name: body.name,
            principal: body.principal,
            scopeFloor: body.scopeFloor,
            verbs: body.verbs,
            content: body.content,
            defaultView: body.defaultView,
            expiresAt,
          }),
        ),
      );
    },
  }),
  endpoint({
    method: "get",
    path: "/contexts/{ctx}/keys",
    verb: "manage",
    operation: "list_keys",
    summary: "The keys inside the floor",
    answer: keysResponse,
    query: fields({ ...pageAndSize, scope: querySelector, name: keyName.optional() }),
    handle: ({ enter, query: { page, pageSize, scope, name } }) =>
      enter(subtreeOf(scope), async (tx) => {
        const { keys, total } = await listKeys(tx, { name, page, pageSize });
        return { keys, page, pageSize, total };
      }),
  }),
  endpoint({
    method: "post",
    path: "/contexts/{ctx}/keys/{idOrName}/rotate",
    verb: "manage",
    operation: "rotate_key",
    summary: "Give a key a new secret",
    answer: rotatedKeyResponse,
    secret: true,
    params: idOrName,
    query: fields({ ttlSeconds: ttlSeconds.optional(), graceSeconds, keepChildren }),
    handle: ({ enter, params, query }) =>
      enter({}, async (tx) => {
        const { children, ...key } = await rotateKey(tx, params.idOrName, {
          expiresAt: expiry(query.ttlSeconds),
          graceSeconds: query.graceSeconds,
          keepChildren: query.keepChildren,
        });
        return { ...minted(key), children };
      }),
  }),
  endpoint({
    method: "delete",
    path: "/contexts/{ctx}/keys/{idOrName}",
    verb: "manage",
    operation: "revoke_key",
    summary: "Revoke a key at once",
    status: 204,
    params: idOrName,
    handle: ({ enter, params }) => enter({}, (tx) => revokeKey(tx, params.idOrName)),
  }),
];
