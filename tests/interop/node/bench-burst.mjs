// Adds bursts with Node's BullMQ, one awaited add after the other: node bench-burst.mjs <port> <jobs>
// Reads names of queues from its input, a line each; answers each with "<ms before the first add> <ms before the last> <ms after it>".
import { createInterface } from 'node:readline';
import { Queue } from 'bullmq';

const [port, count] = process.argv.slice(2);
const jobs = Number(count);
const connection = { host: '127.0.0.1', port: Number(port) };
const now = () => performance.timeOrigin + performance.now();
let queue = new Queue('warm-up', { connection });
await queue.waitUntilReady();
for (let i = 0; i < 200; i++) await queue.add('job', { i });
console.log('ready');
for await (const name of createInterface({ input: process.stdin })) {
  await queue.close();
  queue = new Queue(name, { connection });
  await queue.waitUntilReady();
  const first = now();
  let last = first;
  for (let i = 0; i < jobs; i++) {
    last = now();
    await queue.add('job', { i });
  }
  console.log(`${first} ${last} ${now()}`);
}
await queue.close();
