import { z } from "zod";
import { dropHold, listHolds, setHold } from "../../governance/holds.ts";
import { endpoint } from "../endpoint.ts";
import { refuseUnnamed, subtreeOf } from "../wire/access.ts";
import { fields, pageAndSize, querySelector, uuidText, writeSelector } from "../wire/fields.ts";
import { instant, object, pageShape, scopeTags, uuid } from "../wire/shapes.ts";

const manages = { verb: "manage" } as const;

const holdShape = object({
  id: uuid,
  scope: scopeTags,
  subject: z.string().nullable(),
  documentId: uuid.nullable(),
  reason: z.string(),
  keyId: uuid,
  createdAt: instant,
});

export const holdEndpoints = [
  endpoint({
    ...manages,
    method: "get",
    path: "/contexts/{ctx}/holds",
    operation: "holds",
    summary: "Legal holds of a subtree",
    answer: object({ holds: z.array(holdShape), ...pageShape }),
    query: fields({ scope: querySelector, ...pageAndSize }),
    handle: ({ enter, query: { scope, page, pageSize } }) =>
      enter(subtreeOf(scope), async (tx) => ({ ...(await listHolds(tx, pageSize, page)), page, pageSize })),
  }),
  endpoint({
    ...manages,
    method: "put",
    path: "/contexts/{ctx}/holds",
    operation: "hold_set",
    summary: "Hold a scope, or there one document or what mentions a subject: it is neither forgotten nor changed",
    answer: holdShape,
    body: fields({
      scope: writeSelector,
      subject: z.string().trim().min(1).max(256).optional().describe("A person or thing, by its name"),
      documentId: uuidText.optional(),
      reason: z.string().trim().min(1).max(2_000).describe("For management alone"),
    }).refine(
      ({ subject, documentId }) => subject === undefined || documentId === undefined,
      "a hold has a subject or a documentId, not both",
    ),
    handle: ({ enter, body: { scope, ...hold } }) =>
      enter(subtreeOf(scope), (tx) => {
        refuseUnnamed(tx, scope);
        return setHold(tx, hold);
      }),
  }),
  endpoint({
    ...manages,
    method: "delete",
    path: "/contexts/{ctx}/holds/{id}",
    operation: "hold_delete",
    summary: "Take a hold away",
    status: 204,
    params: z.object({ id: uuidText }),
    handle: ({ enter, params }) => enter({}, (tx) => dropHold(tx, params.id)),
  }),
];
