import { createMcpHandler, type McpHttpHandler, McpServer } from "@modelcontextprotocol/server";
import { AppError } from "../../errors.ts";
import { asAppError } from "../problem.ts";
import { as, type McpCaller } from "./caller.ts";
import { addPrompts, INSTRUCTIONS } from "./prompts.ts";
import { addResources } from "./resources.ts";
import type { Tool } from "./tool.ts";
import { toolInput, toolOutput } from "./tool-schema.ts";
import { TOOLS } from "./tools/index.ts";

/** Both eras of the protocol, without sessions: each request is answered by a server of its own, with what its key may use. */
export const mcpHandler = (caller: McpCaller): McpHttpHandler =>
  createMcpHandler(() => serverFor(caller), {
    onerror: caller.onFailure,
    // Nothing changes that a client could listen to: what a key may use is looked up for each request.
    maxSubscriptions: 0,
  });

function serverFor(caller: McpCaller): McpServer {
  const server = new McpServer(
    { name: "scopefloor", title: "Scopefloor memory", version: caller.version },
    { instructions: INSTRUCTIONS, capabilities: { tools: {} } },
  );
  const usable = TOOLS.filter(({ verb }) => caller.verbs.includes(verb));
  for (const tool of usable) addTool(server, caller, tool);
  // To ask for the tools is no mistake where there are none.
  if (usable.length === 0) server.server.setRequestHandler("tools/list", () => ({ tools: [] }));
  if (caller.verbs.includes("memory:read")) addResources(server, caller);
  addPrompts(server);
  return server;
}

function addTool(server: McpServer, caller: McpCaller, tool: Tool): void {
  const { name, title, description, annotations, input, output } = tool;
  server.registerTool(
    name,
    {
      title,
      description,
      annotations: { title, ...annotations },
      inputSchema: toolInput(input),
      outputSchema: toolOutput(output),
    },
    async (args: Record<string, unknown>) => {
      try {
        refuseOtherContext(caller, args.context_id);
        refuseUnplaced(caller, tool, args);
        const given = await tool.given(args);
        const answer = await caller.call(as(caller.route(tool.route), `mcp_${name}`), given);
        const { structured, text } = tool.tell(answer as never, args);
        return { content: [{ type: "text", text }], structuredContent: structured };
      } catch (error) {
        return failed(caller, error);
      }
    },
  );
}

function refuseOtherContext(caller: McpCaller, contextId: unknown): void {
  if (contextId !== undefined && contextId !== caller.context)
    throw new AppError("unauthorized", "the key is not one of this Context");
}

/** Over HTTP an operator's write without a scope is general knowledge; a model does not mean that by leaving it out. */
function refuseUnplaced({ writesForAll }: McpCaller, { verb }: Tool, { scope, scopes }: Record<string, unknown>): void {
  if (verb === "memory:write" && writesForAll && scope === undefined && scopes === undefined)
    throw new AppError(
      "unprocessable",
      'this key writes where everyone reads: name a scope, such as "org/acme", or give the agent a key of its own',
    );
}

/** What went wrong is a result that the model reads, and no fault of the protocol. */
function failed(caller: McpCaller, error: unknown) {
  const { status, slug, message, retryAfter } = asAppError(error);
  if (status >= 500) caller.onFailure(error);
  return {
    isError: true,
    content: [{ type: "text" as const, text: message }],
    structuredContent: {
      error: { status, code: slug, message, ...(retryAfter === undefined ? {} : { retry_after: retryAfter }) },
    },
  };
}
