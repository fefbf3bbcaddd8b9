import { z } from "zod";
import { profileOf, stateOf } from "../../memory/profile.ts";
import { endpoint } from "../endpoint.ts";
import { fields, lens, readSelector, scopeView, viewOf } from "../wire/fields.ts";
import { attribute, entity, instruction, relation, tellProfile, tellState } from "../wire/known.ts";
import { object } from "../wire/shapes.ts";

const reads = { verb: "memory:read" } as const;

const profileResponse = object({
  static: z.array(attribute),
  dynamic: z.array(attribute),
  preferences: z.array(attribute),
  instructions: z.array(instruction),
  truncated: z.boolean(),
});

const statePart = object({
  entities: z.array(entity),
  attributes: z.array(attribute),
  relations: z.array(relation),
});

const stateResponse = object({
  identity: statePart,
  knowledge: statePart,
  context: statePart,
  instructions: z.array(instruction),
  unknowns: z.array(object({ about: z.string(), reason: z.string(), type: z.string(), name: z.string() })),
  truncated: z.boolean(),
});

export const profileEndpoints = [
  endpoint({
    ...reads,
    method: "get",
    path: "/{ctx}/profile",
    mode: "select",
    operation: "profile",
    summary: "What is known, sorted by how lasting it is",
    answer: profileResponse,
    query: fields(lens),
    handle: ({ enter, query }) =>
      enter({ selector: query.lens, view: viewOf(query.scopeView) }, async (tx) => tellProfile(await profileOf(tx))),
  }),
  endpoint({
    ...reads,
    method: "get",
    path: "/{ctx}/state",
    mode: "select",
    operation: "state",
    summary: "What is known, by category",
    answer: stateResponse,
    query: fields(lens),
    handle: ({ enter, query }) =>
      enter({ selector: query.lens, view: viewOf(query.scopeView) }, async (tx) => tellState(await stateOf(tx))),
  }),
  endpoint({
    ...reads,
    method: "post",
    path: "/{ctx}/state",
    mode: "select",
    operation: "state",
    summary: "What is known, by category",
    answer: stateResponse,
    body: fields({ lens: readSelector, scopeView: scopeView.optional() }),
    handle: ({ enter, body }) =>
      enter({ selector: body.lens, view: viewOf(body.scopeView) }, async (tx) => tellState(await stateOf(tx))),
  }),
];
