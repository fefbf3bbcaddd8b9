import { z } from "zod";
import { settingsOf } from "../../context/settings.ts";
import { invalid } from "../../errors.ts";
import { stringifyJson } from "../../exact-json.ts";
import { forgetTurns } from "../../forget/forget-turns.ts";
import { visibleSession } from "../../memory/session-ids.ts";
import { closeSession, createSession, getSession, listSessions, listTurns } from "../../memory/sessions.ts";
import { sessionContext } from "../../recall/answer/session-context.ts";
import { PRESENT } from "../../recall/ranking/filter.ts";
import { recallThroughTiers } from "../../recall/recall.ts";
import { recallDeps } from "../deps.ts";
import { endpoint } from "../endpoint.ts";
import { listAccess } from "../wire/access.ts";
import {
  fields,
  limitAndOffset,
  querySelector,
  queryText,
  scopeView,
  sessionName,
  wholeNumber,
  writeSelector,
} from "../wire/fields.ts";
import { instant, integer, object, scopePaths, scopeTags, uuid } from "../wire/shapes.ts";

const METADATA_LIMIT = 64 * 1024;
const id = z.object({ id: sessionName });
/** At which scope a session of the caller's own name is meant. */
const at = { lens: querySelector };

const sessionContextResponse = object({ context: z.string() });
const newSessionResponse = object({ id: uuid, scopes: scopePaths, scope: scopeTags, createdAt: instant });
const sessionResponse = object({
  ...newSessionResponse.shape,
  name: z.string().optional(),
  metadata: z.record(z.string(), z.unknown()),
  closedAt: instant.optional(),
}).meta({ id: "Session" });

const sessionsResponse = object({ sessions: z.array(sessionResponse) });
const turn = object({
  id: uuid,
  session: uuid,
  role: z.string(),
  content: z.string(),
  seq: integer,
  createdAt: instant,
}).meta({ id: "Turn" });
const turnsResponse = object({ turns: z.array(turn), total: integer });

export const sessionEndpoints = [
  endpoint({
    method: "post",
    path: "/{ctx}/sessions",
    verb: "memory:write",
    mode: "write",
    operation: "session",
    summary: "Open a session",
    answer: newSessionResponse,
    status: 201,
    body: fields({ scopes: writeSelector, metadata: z.record(z.string(), z.unknown()).optional() }),
    handle: ({ enter, body }) => {
      const metadata = body.metadata ?? {};
      if (stringifyJson(metadata).length > METADATA_LIMIT) throw invalid(`metadata is over ${METADATA_LIMIT} bytes`);
      return enter({ selector: body.scopes }, async (tx) => {
        const { id: made, scopes, scope, createdAt } = await createSession(tx, metadata);
        return { id: made, scopes, scope, createdAt };
      });
    },
  }),
  endpoint({
    method: "get",
    path: "/{ctx}/sessions",
    verb: "memory:read",
    operation: "sessions",
    summary: "List sessions, newest first",
    answer: sessionsResponse,
    query: fields({ ...limitAndOffset, lens: querySelector, scopeView: scopeView.optional() }),
    handle: ({ enter, query }) =>
      enter(listAccess(query), async (tx) => ({ sessions: await listSessions(tx, query.limit, query.offset) })),
  }),
  endpoint({
    method: "get",
    path: "/{ctx}/sessions/{id}",
    verb: "memory:read",
    operation: "sessions",
    summary: "One session",
    answer: sessionResponse,
    params: id,
    query: fields(at),
    handle: ({ enter, params, query }) =>
      enter({}, async (tx) => getSession(tx, await visibleSession(tx, params.id, query.lens))),
  }),
  endpoint({
    method: "delete",
    path: "/{ctx}/sessions/{id}",
    verb: "memory:write",
    mode: "modify",
    operation: "session_close",
    summary: "Close a session; its turns stay",
    status: 204,
    params: id,
    query: fields(at),
    handle: ({ enter, params, query }) =>
      enter({}, async (tx) => closeSession(tx, await visibleSession(tx, params.id, query.lens))),
  }),
  endpoint({
    method: "get",
    path: "/{ctx}/sessions/{id}/turns",
    verb: "memory:read",
    operation: "turns",
    summary: "A session's turns, in order",
    answer: turnsResponse,
    params: id,
    query: fields({ ...limitAndOffset, ...at, order: z.enum(["asc", "desc"]).default("asc") }),
    handle: ({ enter, params, query }) =>
      enter({}, async (tx) => listTurns(tx, await visibleSession(tx, params.id, query.lens), query)),
  }),
  endpoint({
    method: "delete",
    path: "/{ctx}/sessions/{id}/turns",
    verb: "memory:forget",
    mode: "forget",
    operation: "turns_delete",
    summary: "Erase a session's turns, all or the last ones; the session stays open",
    answer: object({
      deleted: integer,
      receiptId: uuid.optional(),
      turns: z.array(turn).optional().describe("Of the last ones: what they were"),
    }),
    params: id,
    query: fields({ ...at, last: wholeNumber(1, 500).optional().describe("How many; absent: all") }),
    handle: ({ enter, params, query }) =>
      enter({ subtree: true }, async (tx) =>
        forgetTurns(tx, await visibleSession(tx, params.id, query.lens), query.last),
      ),
  }),
  endpoint({
    method: "post",
    path: "/{ctx}/sessions/{id}/context",
    verb: "memory:read",
    mode: "select",
    operation: "context",
    summary: "A session's end and what memory has beside it, for a prompt",
    answer: sessionContextResponse,
    params: id,
    query: fields(at),
    body: fields({ query: queryText }),
    handle: async ({ enter, peek, meter, params, query, body, deps }) => {
      // What is remembered beside a session is what its own scope may see.
      const { scope, id: sessionId } = await peek({}, async (tx) =>
        getSession(tx, await visibleSession(tx, params.id, query.lens)),
      );
      const where = { selector: [{ tags: scope, subtree: false }], view: "strict" } as const;
      return recallThroughTiers(
        (access, work) => enter({ ...where, ...access }, work),
        recallDeps(deps, meter(where)),
        { query: body.query, k: 20, mode: "hybrid", filter: PRESENT, includeDuplicates: false },
        { operation: "context", sessionId },
        async (tx, { hits }) => ({ context: await sessionContext(tx, sessionId, hits, settingsOf(tx).contextTokens) }),
      );
    },
  }),
];
