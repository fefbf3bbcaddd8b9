import {
  type McpServer,
  ProtocolError,
  ProtocolErrorCode,
  ResourceNotFoundError,
  ResourceTemplate,
} from "@modelcontextprotocol/server";
import { stringifyJson } from "../../exact-json.ts";
import { asAppError } from "../problem.ts";
import { as, type McpCaller } from "./caller.ts";

/** Documents that a list shows, newest first. */
const LISTED = 100;
/** Chunks of a document that is read: about a quarter of a megabyte. */
const READ_CHUNKS = 500;

/** Does what a resource takes; a failure is a fault of the protocol, with the status that it has over HTTP. */
async function orFault<T>(caller: McpCaller, uri: string, read: () => Promise<T>): Promise<T> {
  try {
    return await read();
  } catch (error) {
    const { status, slug, message } = asAppError(error);
    if (status === 404) throw new ResourceNotFoundError(uri, message);
    if (status >= 500) caller.onFailure(error);
    const code = status >= 500 ? ProtocolErrorCode.InternalError : ProtocolErrorCode.InvalidParams;
    throw new ProtocolError(code, message, { status, code: slug });
  }
}

/** What is known as a whole, and the documents. */
export function addResources(server: McpServer, caller: McpCaller): void {
  server.registerResource(
    "profile",
    "scopefloor://profile",
    { title: "Profile", description: "What is known, by how lasting it is", mimeType: "application/json" },
    (uri) =>
      orFault(caller, uri.href, async () => {
        const profile = await caller.call(as(caller.route("get /{ctx}/profile"), "mcp_profile"), {});
        return { contents: [{ uri: uri.href, mimeType: "application/json", text: stringifyJson(profile) }] };
      }),
  );
  const template = new ResourceTemplate("scopefloor://documents/{id}", {
    list: () =>
      orFault(caller, "scopefloor://documents", async () => {
        const route = as(caller.route("get /{ctx}/documents"), "mcp_documents");
        const { documents } = (await caller.call(route, { query: { status: "ready", pageSize: `${LISTED}` } })) as {
          documents: { id: string; title: string; sizeBytes: number }[];
        };
        return {
          resources: documents.map(({ id, title, sizeBytes }) => ({
            uri: `scopefloor://documents/${id}`,
            name: title,
            title,
            mimeType: "text/plain",
            size: sizeBytes,
          })),
        };
      }),
  });
  server.registerResource(
    "document",
    template,
    {
      title: "A document's text",
      description: "The text of an uploaded document, by its parts",
      mimeType: "text/plain",
    },
    (uri, { id }) =>
      orFault(caller, uri.href, async () => {
        const route = as(caller.route("get /{ctx}/documents/{id}/chunks"), "mcp_chunks");
        const { chunks } = (await caller.call(route, {
          params: { id: String(id) },
          query: { limit: `${READ_CHUNKS}` },
        })) as {
          chunks: { text: string; charStart: number; charEnd: number }[];
        };
        return { contents: [{ uri: uri.href, mimeType: "text/plain", text: joined(chunks) }] };
      }),
  );
}

/** Neighbours share their borders: what of a part was there already is left out. */
function joined(
  chunks: readonly { readonly text: string; readonly charStart: number; readonly charEnd: number }[],
): string {
  let end = 0;
  return chunks
    .map(({ text, charStart, charEnd }) => {
      const fresh = charStart < end ? text.slice(end - charStart) : `${end === 0 ? "" : "\n"}${text}`;
      end = Math.max(end, charEnd);
      return fresh;
    })
    .join("");
}
