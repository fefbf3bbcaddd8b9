/** The models whose vectors the database knows. */
export interface RegisteredModel {
  readonly id: number;
  /** `provider:model`, or the built-in embedder's name. */
  readonly name: string;
  readonly dimensions: number;
  /** Cosine distance below which two texts are about the same thing. */
  readonly nearDistance: number;
  readonly isDense: boolean;
}

export interface ModelRegistry {
  find(name: string): Promise<RegisteredModel | undefined>;
  /** Those that any stored vector is of, by id. */
  inUse(): Promise<readonly RegisteredModel[]>;
  /** For a process that has the owner's connection. */
  register(model: Pick<RegisteredModel, "name" | "dimensions" | "nearDistance">): Promise<void>;
}
