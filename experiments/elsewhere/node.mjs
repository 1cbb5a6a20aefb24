// What onnxruntime-node makes of an ONNX file: node node.mjs MODULES FILE.onnx INPUT.bin TYPE DIMS, e.g. uint8 8,1,28,28
import fs from "node:fs";
import { createRequire } from "node:module";

const [modules, path, input, type, dims] = process.argv.slice(2);
const require = createRequire(`${modules}/`);
const ort = require("onnxruntime-node");
const bytes = fs.readFileSync(input);
const whole = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length);
const session = await ort.InferenceSession.create(path);
const data = type === "uint8" ? new Uint8Array(whole) : new Float32Array(whole);
const given = await session.run({ input: new ort.Tensor(type, data, dims.split(",").map(Number)) });
const output = given[session.outputNames[0]];
const version = require("onnxruntime-node/package.json").version;
console.log(JSON.stringify({ version, dims: output.dims, data: Array.from(output.data) }));
