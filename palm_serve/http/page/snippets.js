// The request as a command or a program. A token is never written out.

import { address, hasToken, PARSE } from "./api.js";

// Quote a text for a POSIX shell.
const shell = (text) => `'${text.replaceAll("'", "'\\''")}'`;

export function snippet(kind, request) {
	return { curl, python, node }[kind](address(PARSE), request);
}

function curl(url, request) {
	const token = hasToken() ? ` \\\n  -H "Authorization: Bearer $PALM_TOKEN"` : "";
	return `curl ${shell(url)} \\\n  -H 'Content-Type: application/json'${token} \\\n  -d ${shell(JSON.stringify(request))}\n`;
}

function python(url, request) {
	const token = hasToken() ? `, "Authorization": "Bearer " + os.environ["PALM_TOKEN"]` : "";
	return `import json
${token ? "import os\n" : ""}import urllib.request

message = ${JSON.stringify(request, null, 2)}
headers = {"Content-Type": "application/json"${token}}
request = urllib.request.Request(${JSON.stringify(url)}, json.dumps(message).encode(), headers)
with urllib.request.urlopen(request) as response:
    answer = json.load(response)
print(json.dumps(answer, indent=2, ensure_ascii=False))
`;
}

function node(url, request) {
	const token = hasToken() ? `, authorization: \`Bearer \${process.env.PALM_TOKEN}\`` : "";
	return `const message = ${JSON.stringify(request, null, 2)};
const headers = { "content-type": "application/json"${token} };
fetch(${JSON.stringify(url)}, { method: "POST", headers, body: JSON.stringify(message) })
  .then((response) => response.json())
  .then((answer) => console.log(JSON.stringify(answer, null, 2)));
`;
}
