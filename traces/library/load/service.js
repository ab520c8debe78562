// A small JSON service: sessions kept in a map and updated by requests, short-lived objects for each.
const http = require('http');
const sessions = new Map();
let served = 0;
http.createServer((request, response) => {
  const id = (served++ * 2654435761) % 20000;
  const session = sessions.get(id) ?? { id, seen: 0, items: [] };
  session.seen++;
  session.items.push({ at: Date.now(), price: Math.random(), name: `item-${served}` });
  if (session.items.length > 12) session.items.shift();
  sessions.set(id, session);
  const top = session.items.map((item) => ({ ...item, tax: item.price * 0.2 })).sort((a, b) => a.price - b.price);
  response.setHeader('content-type', 'application/json');
  response.end(JSON.stringify({ session: { ...session, items: undefined }, top }));
}).listen(Number(process.argv[2]), '127.0.0.1');
