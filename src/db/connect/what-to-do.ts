/** What an operator does about a connection that fails with this code: Node.js's, or an SQLSTATE. */
export function whatToDo(code: string | undefined): string {
  switch (code) {
    case "ECONNREFUSED":
      return "start PostgreSQL, and look at the host and port in DATABASE_URL";
    case "ENOTFOUND":
    case "EAI_AGAIN":
      return "the host in DATABASE_URL has no address";
    case "28P01":
    case "28000":
      return "the user or password in DATABASE_URL is wrong, or pg_hba.conf does not let it in";
    case "3D000":
      return "there is no database of that name: create it";
    case "42501":
      return "the login may not do this: give DATABASE_OWNER_URL the database's owner";
    default:
      return "look at DATABASE_URL and at the server's log";
  }
}
