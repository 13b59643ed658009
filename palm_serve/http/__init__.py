"""The HTTP door: the services of the gRPC server for clients of other protocols, in the same process and event loop.

A request is a call as one of gRPC is: tokens, rates, deadlines, request ids, draining, metrics, traces and the access log
are the code of `palm_serve.rpc`. This package reads requests and writes answers in the words of each protocol.

context.py      one HTTP request as a `CallContext`: body, deadline, identity, end by a status
statuses.py     the only table from gRPC status codes to HTTP statuses
endpoint.py     a route: runs one call and sends its answer or its error
guard.py        what is refused before a call: other host names, requests of other sites
decompression.py  bodies with Content-Encoding, bounded
plain_json.py   messages as JSON with numbers
message_json.py messages as protobuf's JSON
json_body.py    JSON bodies
open_inference.py  routes of the Open Inference Protocol
inference_json.py  its JSON and binary tensors
rasa.py         routes of Rasa
huggingface.py  routes of Hugging Face's inference API
connect.py      routes of Connect and gRPC-Web
connect_codec.py  their bodies
playground.py   the page of a browser, and its routes
feedback.py     corrected answers
feedback_file.py  the file of these
page/           the files of the page
openapi.py      description of the routes
app.py          all routes
listener.py     sockets, TLS, time limits of headers, draining
"""
