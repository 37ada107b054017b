// Enqueues with Node's BullMQ and prints jobs/s: node bench-enqueue.mjs <port> <queue> <single|bulk> <jobs>
import { Queue } from 'bullmq';

const [port, name, how, count] = process.argv.slice(2);
const queue = new Queue(name, { connection: { host: '127.0.0.1', port: Number(port) } });
await queue.waitUntilReady();
const jobs = Number(count);
const add = async (n) => {
  if (how === 'single') {
    for (let i = 0; i < n; i++) await queue.add('noop', { i });
  } else {
    for (let i = 0; i < n; i += 1000) {
      await queue.addBulk(Array.from({ length: 1000 }, (_, j) => ({ name: 'noop', data: { i: i + j } })));
    }
  }
};
await add(how === 'single' ? 200 : 2000);
const began = process.hrtime.bigint();
await add(jobs);
console.log(jobs / (Number(process.hrtime.bigint() - began) / 1e9));
await queue.close();
