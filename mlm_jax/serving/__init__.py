"""A playground in the browser, and a JSON API beside it, over one trained run.

server.py      routes, and what every request must pass: hosts, origins, sizes, time, the queue
connections.py which are taken from clients that hold them for nothing
requests.py    what a client may send, and what is refused
answering.py   from a request to what the run says or draws
batching.py    many askers, one compiled loop of a few fixed sizes
openapi.py     the description of it all
page.html, page.css, page.js
"""
