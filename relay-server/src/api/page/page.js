// Shows openapi.json as a list of operations. Everything is set as text, nothing as markup.
const make = (tag, text, ...children) => {
  const element = document.createElement(tag);
  if (text) element.textContent = text;
  element.append(...children);
  return element;
};

const resolve = (root, schema, depth = 0) => {
  if (!schema || depth > 8) return schema;
  if (schema.$ref) {
    const found = schema.$ref.slice(2).split("/").reduce((at, part) => at?.[part], root);
    return resolve(root, found, depth + 1);
  }
  if (Array.isArray(schema)) return schema.map((item) => resolve(root, item, depth + 1));
  if (typeof schema !== "object") return schema;
  return Object.fromEntries(Object.entries(schema).map(([name, value]) => [name, resolve(root, value, depth + 1)]));
};

const json = (value) => make("pre", JSON.stringify(value, null, 2));

const show = (root, path, method, operation) => {
  const head = make("summary", "", make("b", method.toUpperCase()), path, make("span", operation.summary));
  const details = make("details", "", head);
  details.addEventListener("toggle", () => {
    if (details.children.length > 1) return;
    const rows = operation.parameters.map((it) =>
      make("tr", "", make("td", it.name), make("td", it.in), make("td", it.description || "")));
    if (rows.length) details.append(make("h4", "Parameters"), make("table", "", ...rows));
    const body = operation.requestBody?.content["application/json"]?.schema;
    if (body) details.append(make("h4", "Body"), json(resolve(root, body)));
    for (const [status, answer] of Object.entries(operation.responses)) {
      const whole = resolve(root, answer, 6);
      details.append(make("h4", `${status} ${whole.description || ""}`));
      const [type, content] = Object.entries(whole.content || {})[0] || [];
      if (type === "application/json") details.append(json(resolve(root, content.schema)));
    }
  });
  return details;
};

const root = await (await fetch("/api/openapi.json")).json();
const main = document.getElementById("operations");
const all = Object.entries(root.paths).flatMap(([path, methods]) =>
  Object.entries(methods).map(([method, operation]) => ({
    words: `${method} ${path} ${operation.operationId} ${operation.summary}`.toLowerCase(),
    element: show(root, path, method, operation),
  })));
main.replaceChildren(...all.map((it) => it.element));
document.getElementById("find").addEventListener("input", (event) => {
  const wanted = event.target.value.toLowerCase();
  for (const { words, element } of all) element.hidden = !words.includes(wanted);
});
