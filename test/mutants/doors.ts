// biome-ignore-all lint/suspicious/noTemplateCurlyInString: pieces of source text
import type { Mutant } from "./mutants.ts";

const MCP = "test/http/mcp.test.ts";
const RECALLED = "test/memory/recalled-items.test.ts";
const STORE = "test/memory/store.test.ts";
const MEDIA = "test/documents/media.test.ts";
const FOREIGN = "test/http/foreign-requests.test.ts";

/** Ways to break what comes in by MCP, the keyed store, and what models read of files. */
export const DOOR_MUTANTS: readonly Mutant[] = [
  {
    name: "doors: a key is shown tools that it may not use (threat 58)",
    file: "src/http/mcp/server.ts",
    from: "TOOLS.filter(({ verb }) => caller.verbs.includes(verb))",
    to: "TOOLS",
    tests: [MCP],
  },
  {
    name: "doors: a tool costs nothing (threat 58)",
    function: "priced_as",
    from: `coalesce('{"mcp_remember": "facts", "mcp_recall": "query"}'::jsonb->>of_operation, substring(of_operation FROM '^mcp_(.*)$'), of_operation)`,
    to: "of_operation",
    tests: [MCP],
  },
  {
    name: "doors: a tool forgets without being told to (threat 46)",
    file: "src/http/mcp/tools/forgetting.ts",
    from: "dryRun: apply !== true",
    to: "dryRun: false",
    tests: [MCP],
  },
  {
    name: "doors: a tool is nobody's in the trace (threat 58)",
    file: "src/http/dispatch.ts",
    from: "if (this.spec.recordedAs !== undefined) tx.recordAs(this.spec.recordedAs, this.spec.operation);",
    to: "",
    tests: [MCP],
  },
  {
    name: "doors: an operator's agent writes to everyone (threat 1)",
    file: "src/http/mcp/server.ts",
    from: 'if (verb === "memory:write" && writesForAll &&',
    to: 'if (verb === "memory:forget" && writesForAll &&',
    tests: [MCP],
  },
  {
    name: "doors: a page of another host asks (threat 58)",
    file: "src/http/routes/mcp.ts",
    from: "if (URL.canParse(origin) && new URL(origin).host === host) return;",
    to: "if (URL.canParse(origin)) return;",
    tests: [MCP],
  },
  {
    name: "doors: pictures go to a model that the scope has not agreed to (threat 59)",
    file: "src/jobs/documents/process-document.ts",
    from: "readers: mediaReading ? deps",
    to: "readers: true ? deps",
    tests: [MEDIA],
  },
  {
    name: "doors: a scope's pictures go by the service's key (threat 57)",
    file: "src/models/media.ts",
    from: "return own === undefined ? this.#standard[kind] : this.#own[kind]?.of(own);",
    to: "return this.#standard[kind];",
    tests: [MEDIA],
  },
  {
    name: "doors: who may not read compares and deletes",
    file: "src/memory/items.ts",
    from: 'if (looks && !tx.entry.verbs.includes("memory:read"))',
    to: "if (false)",
    tests: [STORE],
  },
  {
    name: "doors: who may not read is told a version",
    function: "put_items",
    from: "CASE WHEN may_read THEN m.version END",
    to: "m.version",
    tests: [STORE],
  },
  {
    name: "doors: a batch goes on behind a conflict",
    function: "put_items",
    from: "IF (asked.given->>'ifVersion')::int <> at_version THEN",
    to: "IF false THEN",
    tests: [STORE],
  },
  {
    name: "doors: a deleted item is still recalled",
    function: "unrecall_removed",
    from: "WHERE r.indexed IS NOT NULL",
    to: "WHERE false",
    tests: [RECALLED],
  },
  {
    name: "doors: an item is recalled by what it said before",
    function: "put_items",
    from: "PERFORM scopefloor.unrecall_items(at_scope, unsaid);",
    to: "",
    tests: [RECALLED],
  },
  {
    name: "doors: a corrected item is recalled by what it said before",
    function: "correct_memory",
    from: "PERFORM scopefloor.unrecall_items(at_scope, ARRAY[of_id]);",
    to: "",
    tests: [RECALLED],
  },
  {
    name: "doors: a recalled item is recalled after its time",
    file: "src/memory/recalled-items.ts",
    from: "endsAt: expiresAt",
    to: "endsAt: null",
    tests: [RECALLED],
  },
  {
    name: "doors: a text has the vector of what it said before",
    file: "src/jobs/embed-passages.ts",
    from: "(id, seq) IN (SELECT v.id, v.seq FROM",
    to: "id IN (SELECT v.id FROM",
    tests: [RECALLED],
  },
  {
    name: "doors: an item is forgotten by its passage's times",
    file: "src/forget/matching/selection.ts",
    from: "WHERE p.kind <> 'item' AND ",
    to: "WHERE ",
    tests: [RECALLED],
  },
  {
    name: "doors: one request looks at as much as it likes",
    file: "src/memory/item-text.ts",
    from: "if (this.#visited > MOST_VISITED)",
    to: "if (false)",
    tests: [RECALLED],
  },
  {
    name: "doors: general items are kept alive by whoever reads them",
    function: "refresh_items",
    from: "m.scope_id = ANY (scopefloor.ids_in(t->'read')) AND ",
    to: "",
    tests: [STORE],
  },
  {
    name: "doors: a session's turns are taken wherever the lens points (threat 34)",
    file: "src/memory/session-ids.ts",
    from: "if (named !== undefined && !(await isAt(tx, ref, named))) throw notFound();",
    to: "",
    tests: [STORE],
  },
  {
    name: "doors: turns of another agent's session are taken (threat 44)",
    file: "src/forget/forget-turns.ts",
    from: "await refuseOthersSession(tx, sessionId);",
    to: "",
    tests: [STORE],
  },
  {
    name: "doors: who may not read is told of a document's bytes",
    file: "src/documents/documents.ts",
    from: 'if (!tx.entry.verbs.includes("memory:read"))',
    to: "if (false)",
    tests: [FOREIGN],
  },
];
