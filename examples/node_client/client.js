// Asks a PALM server for intent and slots of one utterance.
//
//   npm install
//   node client.js "show me flights from boston to denver" [HOST:PORT] [PATH/TO/palm.proto]
//
// Offsets are asked for in UTF-16, which is what JavaScript strings count in: text.slice(start, end) is the value.
const path = require("node:path");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const PROTO = path.join(__dirname, "..", "..", "protos", "palm_serve", "v1", "palm.proto");

function connect(target, proto = PROTO) {
  const definition = loader.loadSync(proto, { keepCase: true, enums: String, defaults: true, oneofs: true });
  const { DialogueUnderstanding } = grpc.loadPackageDefinition(definition).palm_serve.v1;
  return new DialogueUnderstanding(target, grpc.credentials.createInsecure());
}

function parse(client, text) {
  const request = { text, offset_unit: "OFFSET_UNIT_UTF16" };
  return new Promise((resolve, reject) => {
    client.Parse(request, { deadline: Date.now() + 5000 }, (error, answer) => (error ? reject(error) : resolve(answer)));
  });
}

async function main([text, target = "127.0.0.1:50051", proto = PROTO]) {
  if (!text) {
    console.error('usage: node client.js "text" [HOST:PORT] [PATH/TO/palm.proto]');
    return 2;
  }
  const client = connect(target, proto);
  try {
    const answer = await parse(client, text);
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

module.exports = { connect, parse };
