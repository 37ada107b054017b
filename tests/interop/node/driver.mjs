// Node's BullMQ for the tests beside it: a request a line in, {id, method, args}; an answer a line out, {id, result} or
// {id, error}. A worker's jobs are told as {event: "job", ...} when they start. `node driver.mjs <port> [user password prefix]`
import { createInterface } from 'node:readline';
import { FlowProducer, Queue, QueueEvents, RateLimitError, UnrecoverableError, Worker } from 'bullmq';

const [port, username, password, prefix = 'bull'] = process.argv.slice(2);
const connection = { host: '127.0.0.1', port: Number(port), username, password, maxRetriesPerRequest: null };
const queues = new Map();
const events = new Map();
const workers = new Map();
const flows = [];

const queue = (name) => {
  if (!queues.has(name)) queues.set(name, new Queue(name, { connection, prefix }));
  return queues.get(name);
};
const queueEvents = async (name) => {
  if (!events.has(name)) {
    const made = new QueueEvents(name, { connection, prefix });
    await made.waitUntilReady();
    events.set(name, made);
  }
  return events.get(name);
};
const write = (message) => process.stdout.write(`${JSON.stringify(message)}\n`);
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
// Jobs as plain values, wherever they stand in an answer.
const plain = (value) => {
  if (Array.isArray(value)) return value.map(plain);
  if (value && typeof value.toJSON === 'function') return { ...value.toJSON(), processedBy: value.processedBy };
  return value;
};
const job = async (name, id) => {
  const found = await queue(name).getJob(id);
  if (!found) throw new Error(`no job ${id}`);
  return found;
};

// What a worker does with a job is said by its data: {does: "return" | "fail" | ..., ...}
const process_ = async (job) => {
  write({ event: 'job', queue: job.queueName, id: job.id, name: job.name, attempt: job.attemptsMade, data: job.data });
  const { does = 'return', value = null, message = 'it failed', ms = 0, times = 0 } = job.data ?? {};
  if (ms) await sleep(ms);
  if (does === 'hang') await new Promise(() => {});
  if (does === 'children') return job.getChildrenValues();
  if (does === 'progress') await job.updateProgress(value);
  if (does === 'log') await job.log(message);
  if (does === 'fail') throw new Error(message);
  if (does === 'fail-first' && job.attemptsMade < times) throw new Error(message);
  if (does === 'give-up') throw new UnrecoverableError(message);
  if (does === 'rate-limit' && job.attemptsStarted === 1) {
    await workers.get(job.queueName).rateLimit(ms || 200);
    throw new RateLimitError();
  }
  return value;
};

const methods = {
  add: async (name, jobName, data, opts) => (await queue(name).add(jobName, data, opts)).id,
  addBulk: async (name, jobs) => (await queue(name).addBulk(jobs)).map((each) => each.id),
  addFlow: async (tree) => {
    flows[0] ??= new FlowProducer({ connection, prefix });
    return (await flows[0].add(tree)).job.id;
  },
  getJob: async (name, id) => {
    const found = await queue(name).getJob(id);
    return found ? { ...found.toJSON(), state: await found.getState() } : null;
  },
  counts: (name) => queue(name).getJobCounts(),
  queue: async (name, method, ...args) => plain(await queue(name)[method](...args)),
  watch: async (name, ...types) => {
    const made = await queueEvents(name);
    for (const type of types) made.on(type, (args) => write({ event: 'queue', queue: name, type, args }));
  },
  job: async (name, id, method, ...args) => plain(await (await job(name, id))[method](...args)),
  waitUntilFinished: async (name, id, ttl) => (await job(name, id)).waitUntilFinished(await queueEvents(name), ttl),
  retry: async (name, id, state = 'failed') => (await job(name, id)).retry(state),
  remove: async (name, id) => (await job(name, id)).remove(),
  promote: async (name, id) => (await job(name, id)).promote(),
  logs: (name, id) => queue(name).getJobLogs(id),
  pause: (name) => queue(name).pause(),
  resume: (name) => queue(name).resume(),
  isPaused: (name) => queue(name).isPaused(),
  setGlobalConcurrency: (name, value) => queue(name).setGlobalConcurrency(value),
  setGlobalRateLimit: (name, max, duration) => queue(name).setGlobalRateLimit(max, duration),
  getWorkers: (name) => queue(name).getWorkers(),
  upsertJobScheduler: async (name, id, repeat, template) =>
    (await queue(name).upsertJobScheduler(id, repeat, template))?.id ?? null,
  getJobSchedulers: (name) => queue(name).getJobSchedulers(),
  worker: async (name, opts = {}) => {
    const worker = new Worker(name, process_, { connection, prefix, ...opts });
    worker.on('stalled', (id) => write({ event: 'stalled', queue: name, id }));
    worker.on('error', (error) => write({ event: 'error', queue: name, message: String(error.message) }));
    await worker.waitUntilReady();
    workers.set(name, worker);
  },
  closeWorker: async (name, force = false) => {
    await workers.get(name)?.close(force);
    workers.delete(name);
  },
};

const answer = async ({ id, method, args = [] }) => {
  try {
    const result = await methods[method](...args);
    write({ id, result: result ?? null });
  } catch (error) {
    write({ id, error: String(error.message ?? error) });
  }
};
createInterface({ input: process.stdin })
  .on('line', (line) => answer(JSON.parse(line)))
  .on('close', async () => {
    setTimeout(() => process.exit(1), 3000); // whatever a Redis that has gone keeps open
    for (const worker of workers.values()) await worker.close(true);
    process.exit(0);
  });
write({ event: 'ready' });
