import { z } from "zod";
import { refuseUnoffered } from "../../context/offered.ts";
import { contextSettings } from "../../context/settings.ts";
import { invalid } from "../../errors.ts";
import { checkCredentials, sealFor } from "../../governance/credentials.ts";
import {
  CREDENTIAL_NAMES,
  dropSettings,
  effectiveSettings,
  listSettings,
  SETTING_NAMES,
  setSettings,
} from "../../governance/settings.ts";
import { endpoint } from "../endpoint.ts";
import { refuseUnnamed, subtreeOf } from "../wire/access.ts";
import { fields, flag, given, listed, pageAndSize, querySelector, writeSelector } from "../wire/fields.ts";
import { integer, object, scopeTags } from "../wire/shapes.ts";

const manages = { verb: "manage" } as const;
const values = z.record(z.string(), z.unknown());
/** One without white space or control characters: it is sent in a header. */
const apiKey = z
  .string()
  .regex(/^[\x21-\x7e]{1,500}$/, "must be printable ASCII without spaces, at most 500 characters");
const credential = z
  .union([apiKey.transform((key) => ({ apiKey: key })), fields({ apiKey, baseUrl: z.string().max(500).optional() })])
  .optional();
const scopeSettings = object({ scope: scopeTags, settings: values });

export const settingsEndpoints = [
  endpoint({
    ...manages,
    method: "get",
    path: "/contexts/{ctx}/settings",
    operation: "settings",
    summary: "Settings of a subtree; or with effective=true what is in force at a scope, and where it comes from",
    answer: object({
      scopes: z.array(scopeSettings).optional(),
      settings: z
        .record(z.string(), object({ value: z.unknown(), scope: scopeTags.nullable() }))
        .optional()
        .describe("With effective=true; a scope of null: the Context"),
      page: integer.optional(),
      pageSize: integer.optional(),
      total: integer.optional(),
    }),
    query: fields({ scope: querySelector, effective: flag, ...pageAndSize }),
    handle: ({ enter, deps, query: { scope, effective, page, pageSize } }) =>
      enter(subtreeOf(scope), async (tx) =>
        effective
          ? { settings: await effectiveSettings(tx, deps.context, deps.models.settings.embeddings) }
          : { ...(await listSettings(tx, pageSize, page)), page, pageSize },
      ),
  }),
  endpoint({
    ...manages,
    method: "put",
    path: "/contexts/{ctx}/settings",
    operation: "settings_change",
    summary: "Set values for a scope and all below it; the narrowest scope's value holds",
    answer: scopeSettings,
    body: fields({
      scope: writeSelector,
      ...contextSettings,
      credentials: fields({ openai: credential, rerank: credential })
        .optional()
        .describe("The scope's own keys for providers: kept sealed, and never shown again"),
    }),
    handle: ({ enter, deps, body: { scope, credentials, ...values } }) => {
      const [settings, keys] = [given(values), given(credentials ?? {})];
      if (Object.keys(settings).length + Object.keys(keys).length === 0)
        throw invalid(`say what to set: ${[...SETTING_NAMES, "credentials"].join(", ")}`);
      refuseUnoffered(deps.models, settings);
      checkCredentials(keys, { models: deps.models, hasReranker: deps.reranker !== undefined });
      return enter(subtreeOf(scope), (tx) => {
        refuseUnnamed(tx, scope);
        return setSettings(tx, settings, sealFor(tx, deps.models.seal, keys));
      });
    },
  }),
  endpoint({
    ...manages,
    method: "delete",
    path: "/contexts/{ctx}/settings",
    operation: "settings_delete",
    summary: "Take a scope's settings away: what is above it holds again",
    status: 204,
    query: fields({
      scope: querySelector,
      names: listed([...SETTING_NAMES, ...CREDENTIAL_NAMES])
        .optional()
        .describe("One or several, with commas between; absent: all"),
    }),
    handle: ({ enter, query: { scope, names } }) =>
      enter(subtreeOf(scope), (tx) => {
        refuseUnnamed(tx, scope);
        return dropSettings(tx, names);
      }),
  }),
];
