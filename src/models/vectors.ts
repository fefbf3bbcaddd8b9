/** A vector as pgvector spells it, `[0.1,0.2]`. */
export type VectorText = string & { readonly __vector: unique symbol };

const THREE_DIGITS = Array.from({ length: 1_000 }, (_, i) => String(i).padStart(3, "0"));

/** A component with six decimals. (A unit vector's are all below 1, and spelt in a fifth of the time of toFixed.) */
function spelled(x: number): string {
  const millionths = Math.round(Math.abs(x) * 1e6);
  if (millionths === 0) return "0";
  if (millionths >= 1e6) return String(+x.toFixed(6));
  return `${x < 0 ? "-" : ""}0.${THREE_DIGITS[Math.floor(millionths / 1_000)]}${THREE_DIGITS[millionths % 1_000]}`;
}

/** Models pad nothing: pgvector's halfvec holds up to 16,000 dimensions of half precision. */
const MOST_DIMENSIONS = 16_000;
/** Beyond it a half-precision number is infinite. */
const LARGEST = 65_504;

/**
 * Vectors of a model as pgvector takes them, one for each text.
 *
 * A text in which the model finds nothing has no vector: cosine distance to zero is not a number.
 *
 * @throws Error that names what is wrong: their number, their dimensions, or a component that is no finite number
 */
export function checkVectors(
  vectors: unknown,
  expected: { readonly count: number; readonly dimensions: number | undefined },
): (VectorText | null)[] {
  if (!Array.isArray(vectors) || vectors.length !== expected.count) {
    throw new Error(
      `the model gave ${Array.isArray(vectors) ? vectors.length : "no"} vectors for ${expected.count} texts`,
    );
  }
  return vectors.map((vector: unknown) => {
    if (!Array.isArray(vector) || vector.length === 0 || vector.length > MOST_DIMENSIONS) {
      throw new Error("the model gave something that is not a vector");
    }
    if (expected.dimensions !== undefined && vector.length !== expected.dimensions) {
      throw new Error(`the model gave ${vector.length} dimensions instead of ${expected.dimensions}`);
    }
    let isZero = true;
    for (const x of vector) {
      if (typeof x !== "number" || !Number.isFinite(x) || Math.abs(x) > LARGEST) {
        throw new Error("the model gave a vector with a component that is not a finite number");
      }
      if (x !== 0) isZero = false;
    }
    return isZero ? null : (`[${vector.map(spelled).join(",")}]` as VectorText);
  });
}
