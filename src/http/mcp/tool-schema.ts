import type { StandardSchemaWithJSON } from "@modelcontextprotocol/server";
import { z } from "zod";

/**
 * A tool's input as the protocol's library takes it. What clients send besides what the schema says is taken as it is
 * meant: null as absent, and JSON in a string where the field is no string.
 */
export function toolInput<Shape extends z.ZodRawShape>(
  shape: Shape,
): StandardSchemaWithJSON<z.input<z.ZodObject<Shape>>, z.output<z.ZodObject<Shape>>> {
  const schema = z.strictObject(shape);
  const describe = () => jsonSchemaOf(schema);
  return {
    "~standard": {
      version: 1,
      vendor: "zod",
      validate: (given) => {
        const checked = schema.safeParse(asMeant(shape, given));
        return checked.success
          ? { value: checked.data as z.output<z.ZodObject<Shape>> }
          : { issues: checked.error.issues };
      },
      jsonSchema: { input: describe, output: describe },
    },
  };
}

/** What stands in place of an answer where a call failed. */
const FAILURE = {
  type: "object",
  description: "Instead of all others: why the call failed",
  properties: {
    status: { type: "integer" },
    code: { type: "string" },
    message: { type: "string" },
    retry_after: { type: "number" },
  },
};

/**
 * A tool's answer as the protocol's library takes it. None of its fields is required: clients of the first package
 * (1.32) hold what a failed call says against it too, and throw it away where it does not fit.
 */
export function toolOutput(schema: z.ZodObject): StandardSchemaWithJSON {
  const describe = () => {
    const { required: _, properties = {}, ...json } = jsonSchemaOf(schema);
    return { ...json, properties: { ...(properties as object), error: FAILURE } };
  };
  return { "~standard": { ...schema["~standard"], jsonSchema: { input: describe, output: describe } } };
}

function jsonSchemaOf(schema: z.ZodType): Record<string, unknown> {
  const { $schema: _, ...json } = z.toJSONSchema(schema, {
    target: "draft-2020-12",
    io: "input",
    override: ({ jsonSchema }) => {
      // The same in the spelling that every client knows.
      const { additionalProperties: others } = jsonSchema;
      if (typeof others === "object" && Object.keys(others).length === 0) jsonSchema.additionalProperties = true;
    },
  });
  return json as Record<string, unknown>;
}

function asMeant(shape: z.ZodRawShape, given: unknown): unknown {
  if (given === undefined || given === null) return {};
  if (typeof given !== "object" || Array.isArray(given)) return given;
  const meant = Object.entries(given).flatMap(([name, value]) => {
    if (value === null) return [];
    const type = Object.hasOwn(shape, name) ? (shape[name] as z.ZodType) : undefined;
    if (typeof value !== "string" || type === undefined || type.safeParse(value).success) return [[name, value]];
    return [[name, jsonIn(value) ?? value]];
  });
  return Object.fromEntries(meant);
}

function jsonIn(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
