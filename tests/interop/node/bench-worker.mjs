// A Node BullMQ worker that does nothing, for the benchmark: node bench-worker.mjs <port> <queue> <concurrency>
import { Worker } from 'bullmq';

const [port, queue, concurrency] = process.argv.slice(2);
const worker = new Worker(queue, async () => {}, {
  connection: { host: '127.0.0.1', port: Number(port), maxRetriesPerRequest: null },
  concurrency: Number(concurrency),
});
worker.on('error', (error) => console.error(error));
process.on('SIGTERM', () => worker.close().then(() => process.exit(0)));
