// node-redlock on one server, as a peer: `count`, `try`, `hold` or, for the benchmark, `cycle` on one key. Needs the packages redlock and
// ioredis, which ONWARD_NODE_MODULES names the folder of.

import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { setTimeout as pause } from "node:timers/promises";

const require = createRequire(process.env.ONWARD_NODE_MODULES + "/");
const ioredis = require("ioredis");
const redlock = require("redlock");
const Redis = ioredis.default ?? ioredis;
const Redlock = redlock.default ?? redlock;

const [mode, url, key, rounds] = process.argv.slice(2);
const client = new Redis(url, { maxRetriesPerRequest: 1 });
const locks = (retryCount) => new Redlock([client], { retryCount, retryDelay: 2, retryJitter: 2 });

function fail(why) {
  console.error(why);
  process.exit(1);
}

// Adds one to a counter, in two steps, under the lock; ends with 1 if somebody else was inside.
async function count() {
  const peer = locks(20_000);
  for (let round = 0; round < Number(rounds); round++) {
    const lock = await peer.acquire([key], 10_000);
    if ((await client.set(key + ":inside", "redlock", "NX")) === null) fail("redlock was let in beside another holder");
    const before = Number((await client.get(key + ":count")) ?? 0);
    await pause(1);
    await client.set(key + ":count", before + 1);
    await client.del(key + ":inside");
    await lock.release();
  }
  console.log("counted", rounds);
}

// Says whether one attempt gets the lock.
async function attempt() {
  try {
    const lock = await locks(0).acquire([key], 10_000);
    await lock.release();
    console.log("free");
  } catch {
    console.log("held");
  }
}

// Holds the lock until a line comes in, and says whether it was still there.
async function hold() {
  const lock = await locks(0).acquire([key], 60_000);
  console.log("holding");
  await createInterface({ input: process.stdin })[Symbol.asyncIterator]().next();
  console.log(await lock.release().then(
    () => "released",
    () => "lost",
  ));
}

// Takes and gives back the lock, alone; says the median in nanoseconds.
async function cycle() {
  const peer = locks(0);
  const times = [];
  for (let round = 0; round < Number(rounds); round++) {
    const begun = process.hrtime.bigint();
    const lock = await peer.acquire([key], 10_000);
    await lock.release();
    times.push(Number(process.hrtime.bigint() - begun));
  }
  console.log(times.sort((a, b) => a - b)[Math.floor(times.length / 2)]);
}

await { count, try: attempt, hold, cycle }[mode]();
client.disconnect();
process.exit(0);
