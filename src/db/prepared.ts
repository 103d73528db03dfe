import type { Compilable, CompiledQuery } from "kysely";
import { type Db, isPostgres } from "./transaction.ts";

/**
 * A query that is compiled once a kind of database: compiling takes longer than running it on SQLite.
 * `build` uses every argument once, in order, and no other value; anything else throws at first use.
 */
export function prepared<A extends readonly (string | number)[], Row>(
  build: (db: Db, ...args: A) => Compilable<Row>,
): (db: Db, ...args: A) => Promise<Row[]> {
  const compiled: { sqlite?: CompiledQuery<Row>; postgres?: CompiledQuery<Row> } = {};
  return async (db, ...args) => {
    const query = (compiled[isPostgres(db) ? "postgres" : "sqlite"] ??= compile(build(db, ...args), args));
    return (await db.executeQuery<Row>({ ...query, parameters: args })).rows;
  };
}

function compile<Row>(query: Compilable<Row>, args: readonly unknown[]): CompiledQuery<Row> {
  const compiled = query.compile();
  if (compiled.parameters.length !== args.length || compiled.parameters.some((value, i) => value !== args[i])) {
    throw new Error(`The values of a prepared query are not its arguments: ${compiled.sql}`);
  }
  return compiled;
}
