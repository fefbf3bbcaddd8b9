/** Bodies that the page of the API is filled with: each is good as it stands, on a service with nothing in it. */
export const EXAMPLES: Readonly<Record<string, unknown>> = {
  "post /contexts/{ctx}/keys": { name: "ann", principal: "agent", scopeFloor: { org: "acme", user: "ann" } },
  "post /contexts/{ctx}/tenants": { scope: "org/acme", keys: [{ name: "acme agent", principal: "agent" }] },
  "put /contexts/{ctx}/budgets": { scope: "org/acme", period: "month", costLimitUsd: 50 },
  "put /contexts/{ctx}/limits": { scope: "org/acme", requestsPerMinute: 600 },
  "put /contexts/{ctx}/settings": { scope: "org/acme", language: "auto" },
  "put /contexts/{ctx}/retention": { scope: "org/acme", olderThan: "P2Y", action: "erase", kinds: ["turns"] },
  "post /{ctx}/facts": { text: "Acme ships on Fridays", scopes: "org/acme", labels: ["topic=shipping"] },
  "post /{ctx}/facts/batch": {
    messages: [
      { role: "user", content: "When do you ship?" },
      { role: "assistant", content: "On Fridays." },
    ],
    scopes: "org/acme",
  },
  "post /{ctx}/query": { query: "When do we ship?", lens: "org/acme", k: 5 },
  "post /{ctx}/context": { query: "When do we ship?", lens: "org/acme", maxTokens: 500 },
  "post /{ctx}/documents/query": { query: "returned parcels", lens: "org/acme", k: 5 },
  "post /{ctx}/documents/keywords/search": { query: "parcel", lens: "org/acme" },
  "post /{ctx}/sessions": { scopes: "org/acme", metadata: { channel: "web" } },
  "put /{ctx}/memory/{key}": { value: { colour: "dark" } },
  "post /{ctx}/memory/batch": { operations: [{ op: "put", key: "theme", value: "dark" }], scopes: "org/acme" },
  "post /{ctx}/forget": { query: "When do we ship?", scopes: "org/acme", dryRun: true },
  "post /{ctx}/scopes": { path: "org/acme/user/ann", displayName: "Ann" },
  "post /{ctx}/fsck": { maxResults: 20 },
  "post /{ctx}/state": { lens: "org/acme" },
};
