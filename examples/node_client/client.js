// One turn of a dialogue: asks a PALM server for intent and slots of what the user said.
//
//   npm install
//   node client.js "show me flights from boston to denver" [HOST:PORT] [PATH/TO/palm.proto]
//
// Offsets are asked for in UTF-16, which is what JavaScript strings count in: text.slice(start, end) is the value.
const path = require("node:path");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const PROTO = path.join(__dirname, "..", "..", "protos", "palm_serve", "v1", "palm.proto");

// A call that is refused is tried again after the time that the server names (grpc-retry-pushback-ms), as long as its
// deadline allows; when many are refused, most give up at once, so that a busy server is not asked several times as much.
const RETRIES = {
  methodConfig: [{
    name: [{ service: "palm_serve.v1.DialogueUnderstanding" }],
    retryPolicy: {
      maxAttempts: 4,
      initialBackoff: "0.1s",
      maxBackoff: "1s",
      backoffMultiplier: 2,
      retryableStatusCodes: ["RESOURCE_EXHAUSTED", "UNAVAILABLE"],
    },
  }],
  retryThrottling: { maxTokens: 20, tokenRatio: 0.2 },
};

const LOCAL = /^(127\.[\d.]+|localhost|\[::1\])(:\d+)?$|^unix:/;

// One client, and so one connection, for all calls.
function connect(target, proto = PROTO) {
  const definition = loader.loadSync(proto, { keepCase: true, enums: String, defaults: true, oneofs: true });
  const { DialogueUnderstanding } = grpc.loadPackageDefinition(definition).palm_serve.v1;
  const options = {
    "grpc.service_config": JSON.stringify(RETRIES),
    // A connection that has fallen silent is noticed after 30 s, and a server that was away is found again within 5 s.
    "grpc.keepalive_time_ms": 20000,
    "grpc.keepalive_timeout_ms": 10000,
    "grpc.max_reconnect_backoff_ms": 4000,
    // A proxy of the environment (http_proxy) would read the calls, and cannot reach this machine.
    "grpc.enable_http_proxy": LOCAL.test(target) ? 0 : 1,
  };
  return new DialogueUnderstanding(target, grpc.credentials.createInsecure(), options);
}

// With a session id all turns of a dialogue are answered by one version of the model, also while a new one is tried out.
function parse(client, text, { sessionId, deadlineMs = 1000 } = {}) {
  const request = { text, offset_unit: "OFFSET_UNIT_UTF16" };
  const metadata = new grpc.Metadata();
  if (sessionId) metadata.set("x-session-id", sessionId);
  return new Promise((resolve, reject) => {
    const options = { deadline: Date.now() + deadlineMs };
    client.Parse(request, metadata, options, (error, answer) => (error ? reject(error) : resolve(answer)));
  });
}

// What the system does next.
async function turn(client, text, options) {
  try {
    const { intent, ranking, slots, fallback } = await parse(client, text, options);
    if (!fallback?.triggered) {
      return { act: intent.name, slots: slots.map(({ name, start, end }) => [name, text.slice(start, end)]) };
    }
    if (fallback.reason === "AMBIGUOUS") return { act: "ask_which", choices: ranking.slice(0, 2).map(({ name }) => name) };
    const foreign = ["OUT_OF_SCOPE", "UNKNOWN_LANGUAGE"].includes(fallback.reason);
    return { act: foreign ? "hand_over" : "ask_again" };
  } catch (error) {
    if (error.code === grpc.status.INVALID_ARGUMENT) return { act: "ask_again" };
    const passing = ["RESOURCE_EXHAUSTED", "UNAVAILABLE", "DEADLINE_EXCEEDED"].map((name) => grpc.status[name]);
    if (passing.includes(error.code)) return { act: "apologize" };
    throw error;
  }
}

async function main([text, target = "127.0.0.1:50051", proto = PROTO]) {
  if (!text) {
    console.error('usage: node client.js "text" [HOST:PORT] [PATH/TO/palm.proto]');
    return 2;
  }
  const client = connect(target, proto);
  try {
    const answer = await parse(client, text, { deadlineMs: 5000 });
    console.log(`intent  ${answer.intent.name}  ${answer.intent.confidence.toFixed(3)}`);
    for (const { name, start, end } of answer.slots) console.log(`slot    ${name}  ${text.slice(start, end)}`);
    return 0;
  } catch (error) {
    // Messages of the server are meant for people; status codes for programs.
    console.error(`${grpc.status[error.code]}: ${error.details}`);
    return 1;
  } finally {
    client.close();
  }
}

if (require.main === module) main(process.argv.slice(2)).then((code) => process.exit(code));

module.exports = { connect, parse, turn };
