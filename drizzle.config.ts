import { defineConfig } from "drizzle-kit";

export default defineConfig({
  dialect: "postgresql",
  schema: "./src/db/tables/*.ts",
  schemaFilter: ["scopefloor"],
  out: process.env.DRIZZLE_FOLDER ?? "./drizzle",
});
