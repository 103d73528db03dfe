import { behaviours, type BehaviourName } from "./behaviours.ts";
import { attack, type Tally } from "./swarm.ts";

// A process that attacks until it gets SIGTERM, and then prints what became of it.

export interface Orders {
  behaviour: BehaviourName;
  host: string;
  port: number;
  from: readonly string[];
  connections: number;
}

const { behaviour, ...aim } = JSON.parse(process.argv[2]!) as Orders;
const tally: Tally = {};
process.on("SIGTERM", () => {
  console.log(JSON.stringify(tally));
  process.exit(0);
});
attack(behaviours[behaviour], aim, tally);
