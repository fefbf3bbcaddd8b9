import { z } from "zod";
import {
  describeKeyword,
  KEYWORD_ORDERS,
  keywordsOfDocument,
  listKeywords,
  recomputeLinks,
  searchKeywords,
} from "../../documents/keyword-index.ts";
import { normalise } from "../../documents/parsing/normalise.ts";
import { wholeMs } from "../../traces/record.ts";
import { endpoint } from "../endpoint.ts";
import { listAccess } from "../wire/access.ts";
import {
  count,
  fields,
  k,
  pageAndSize,
  querySelector,
  queryText,
  readSelector,
  scopeView,
  uuidText,
  viewOf,
  writeSelector,
} from "../wire/fields.ts";
import { integer, object, pageShape, uuid } from "../wire/shapes.ts";

const id = z.object({ id: uuidText });
const lens = { lens: querySelector, scopeView: scopeView.optional() };

const linksResponse = object({ linksEmitted: integer });
/** A keyword is known by its normalised spelling. */
const named = { id: z.string(), text: z.string(), keyword: z.string(), normalised: z.string() };
const keyword = object({ ...named, documentCount: integer, score: z.number() });
const tell = <K extends { readonly keyword: string; readonly normalised: string }>(one: K) => ({
  id: one.normalised,
  text: one.keyword,
  ...one,
});
const keywordsResponse = object({ keywords: z.array(keyword), ...pageShape });
const keywordResultsResponse = object({ results: z.array(keyword), queryMs: integer });
const describedKeywordResponse = object({
  ...keyword.shape,
  documents: z.array(object({ id: uuid, title: z.string(), score: z.number(), count: integer })),
});

const documentKeywordsResponse = object({
  keywords: z.array(object({ ...named, score: z.number(), count: integer })),
});

/** What documents are about, and the links between them that come of it. They stand before the routes by a document's id. */
export const keywordEndpoints = [
  endpoint({
    method: "post",
    path: "/{ctx}/documents/recompute-links",
    verb: "memory:write",
    mode: "write",
    operation: "recompute_links",
    summary: "Link the documents of a scope by the keywords that they share",
    answer: linksResponse,
    body: fields({ scopes: writeSelector }),
    handle: ({ enter, body }) =>
      enter({ selector: body.scopes }, async (tx) => ({ linksEmitted: await recomputeLinks(tx) })),
  }),
  endpoint({
    method: "get",
    path: "/{ctx}/documents/keywords",
    verb: "memory:read",
    operation: "keywords",
    summary: "List keywords",
    answer: keywordsResponse,
    query: fields({
      ...pageAndSize,
      ...lens,
      q: z.string().trim().min(1).max(200).optional(),
      minDocumentCount: count(1, 1_000_000, 1),
      sort: z.enum(KEYWORD_ORDERS).default("documentCount"),
    }),
    handle: ({ enter, query }) =>
      enter(listAccess(query), async (tx) => {
        const { keywords, ...page } = await listKeywords(tx, query);
        return { keywords: keywords.map(tell), ...page };
      }),
  }),
  endpoint({
    method: "post",
    path: "/{ctx}/documents/keywords/search",
    verb: "memory:read",
    mode: "select",
    operation: "keywords_search",
    summary: "Search keywords",
    answer: keywordResultsResponse,
    body: fields({
      query: queryText,
      k: k.optional(),
      threshold: z.number().min(0).max(1).optional(),
      lens: readSelector,
      scopeView: scopeView.optional(),
    }),
    handle: ({ enter, body }) => {
      const startedAt = performance.now();
      return enter({ selector: body.lens, view: viewOf(body.scopeView) }, async (tx) => ({
        results: (await searchKeywords(tx, { query: body.query, k: body.k ?? 10, threshold: body.threshold ?? 0 })).map(
          tell,
        ),
        queryMs: wholeMs(startedAt),
      }));
    },
  }),
  endpoint({
    method: "get",
    path: "/{ctx}/documents/keywords/{normalised}",
    verb: "memory:read",
    operation: "keywords",
    summary: "A keyword and its documents",
    answer: describedKeywordResponse,
    params: z.object({ normalised: z.string().max(200) }),
    query: fields(lens),
    handle: ({ enter, params, query }) =>
      enter(listAccess(query), async (tx) => tell(await describeKeyword(tx, normalise(params.normalised)))),
  }),
  endpoint({
    method: "get",
    path: "/{ctx}/documents/{id}/keywords",
    verb: "memory:read",
    operation: "keywords",
    summary: "A document's keywords",
    answer: documentKeywordsResponse,
    params: id,
    handle: ({ enter, params }) =>
      enter({}, async (tx) => ({ keywords: (await keywordsOfDocument(tx, params.id)).map(tell) })),
  }),
];
