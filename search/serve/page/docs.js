"use strict";
// The description at /openapi.json as a page. Everything is set as text.

function element(name, text, className) {
  const node = document.createElement(name);
  if (text !== undefined) node.textContent = text;
  if (className) node.className = className;
  return node;
}

function named(schema, api) {
  return schema.$ref ? api.components.schemas[schema.$ref.split("/").pop()] : schema;
}

// "string, 1 to 2000 characters", "list of number", ...
function typeOf(given, api) {
  const schema = named(given, api);
  if (given.$ref) return given.$ref.split("/").pop();
  const options = schema.anyOf || schema.oneOf;
  if (options) return options.map((one) => typeOf(one, api)).join(" or ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((one) => JSON.stringify(one)).join(" or ");
  const bounds = [];
  const between = (low, high, unit) => {
    if (low !== undefined && high !== undefined) bounds.push(`${low} to ${high}${unit}`);
    else if (low !== undefined) bounds.push(`${low}${unit} or more`);
    else if (high !== undefined) bounds.push(`at most ${high}${unit}`);
  };
  if (schema.exclusiveMinimum !== undefined) bounds.push(`above ${schema.exclusiveMinimum}`);
  between(schema.minimum, schema.maximum, "");
  if (schema.exclusiveMaximum !== undefined) bounds.push(`below ${schema.exclusiveMaximum}`);
  between(schema.minLength, schema.maxLength, " characters");
  between(schema.minItems, schema.maxItems, " of them");
  const name = schema.type === "array" ? `list of ${typeOf(schema.items || {}, api)}` : schema.type || "anything";
  return [name, ...bounds].join(", ");
}

function table(caption, rows) {
  const node = element("table");
  node.append(element("caption", caption));
  for (const [name, type, more] of rows) {
    const row = element("tr");
    const head = element("th", name);
    head.scope = "row";
    row.append(head, element("td", type), element("td", more));
    node.append(row);
  }
  return node;
}

function fields(caption, given, api) {
  const schema = named(given, api);
  const needed = new Set(schema.required || []);
  const rows = Object.entries(schema.properties || {}).map(([name, one]) => {
    const default_ = one.default === undefined || one.default === null ? "optional" : `default ${JSON.stringify(one.default)}`;
    return [name, typeOf(one, api), needed.has(name) ? "required" : default_];
  });
  return table(caption, rows);
}

function operation(path, method, about, api) {
  const node = element("section", undefined, "card");
  const head = element("h2");
  head.append(element("code", `${method.toUpperCase()} ${path}`));
  node.id = about.operationId;
  node.append(head, element("p", about.description || about.summary || ""));
  const asked = (about.parameters || []).map((one) => [one.name, typeOf(one.schema, api), one.required ? "required" : "optional"]);
  if (asked.length) node.append(table("Parameters", asked));
  for (const [kind, content] of Object.entries((about.requestBody || {}).content || {}))
    node.append(fields(`Body, ${kind}`, content.schema, api));
  for (const [status, response] of Object.entries(about.responses)) {
    const content = Object.values(response.content || {})[0];
    const schema = content && content.schema && named(content.schema, api);
    if (schema && schema.properties && status < "400") node.append(fields(`Answer ${status}`, schema, api));
    else node.append(element("p", `${status}: ${response.description}`, "quiet"));
  }
  return node;
}

async function show() {
  const where = document.getElementById("operations");
  try {
    const key = sessionStorage.getItem("key");
    const response = await fetch("/openapi.json", { headers: key ? { Authorization: "Bearer " + key } : {} });
    if (!response.ok) throw new Error((await response.json()).detail);
    const api = await response.json();
    const shown = Object.entries(api.paths).flatMap(([path, methods]) =>
      Object.entries(methods).map(([method, about]) => operation(path, method, about, api)));
    where.replaceChildren(element("p", api.info.description || ""), ...shown);
  } catch (error) {
    where.replaceChildren(element("p", error.message, "problem"));
  }
}
show();
