// A BullMQ worker. It ends as BullMQ's documentation says: close() at SIGTERM, which waits for what runs.
import { Worker } from "bullmq";

const connection = {
  host: process.env.REDIS_HOST,
  port: Number(process.env.REDIS_PORT ?? 6379),
  username: process.env.REDIS_USERNAME || undefined,
  password: process.env.REDIS_PASSWORD || undefined,
  maxRetriesPerRequest: null,
};
const pod = process.env.POD_NAME ?? "";

const worker = new Worker(
  process.env.LOAD_QUEUE ?? "load",
  async (job) => {
    const began = Date.now() / 1000;
    await job.log(`began ${began} ${pod}`);
    await new Promise((done) => setTimeout(done, job.data.seconds * 1000));
    await job.log(`ended ${Date.now() / 1000} ${pod}`);
    return { pod, version: "node", began, ended: Date.now() / 1000 };
  },
  { connection, prefix: process.env.BULLPEN_PREFIX ?? "bull", concurrency: Number(process.env.SLOTS ?? 5) },
);
worker.on("error", (error) => console.error(error.message));
process.on("SIGTERM", async () => {
  await worker.close();
  process.exit(0);
});
