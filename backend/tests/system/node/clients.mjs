// Asks a gateway through the SDKs that web pages and servers use; prints one JSON object with what each of them read.
import { createGoogleGenerativeAI } from '@ai-sdk/google';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { ApiError, GoogleGenAI } from '@google/genai';
import { jsonSchema, stepCountIs, streamText, tool } from 'ai';

const base = process.argv[2];

async function genai(options, model = 'plain') {
  const client = new GoogleGenAI({ ...options, httpOptions: { baseUrl: base } });
  const stream = await client.models.generateContentStream({ model, contents: 'hi' });
  const texts = [];
  let last;
  for await (const chunk of stream) {
    if (chunk.text) texts.push(chunk.text);
    last = chunk;
  }
  return {
    pieces: texts.length,
    text: texts.join(''),
    finish: last.candidates[0].finishReason,
    tokens: last.usageMetadata.totalTokenCount,
  };
}

async function count() {
  const client = new GoogleGenAI({ apiKey: 'k', httpOptions: { baseUrl: base } });
  return (await client.models.countTokens({ model: 'plain', contents: 'hi' })).totalTokens;
}

async function failure() {
  try {
    await genai({ apiKey: 'k' }, 'plane');
  } catch (error) {
    return { typed: error instanceof ApiError, status: error.status };
  }
  return null;
}

async function aiSdk(model) {
  const result = streamText({ model, prompt: 'hi' });
  const texts = [];
  for await (const text of result.textStream) texts.push(text);
  return { pieces: texts.length, text: texts.join(''), finish: await result.finishReason, usage: await result.usage };
}

async function aiSdkTool(model) {
  const weather = tool({
    description: 'the weather of a city',
    inputSchema: jsonSchema({ type: 'object', properties: { city: { type: 'string' } }, required: ['city'] }),
    execute: async ({ city }) => `sun in ${city}`,
  });
  const result = streamText({ model, prompt: 'hi', tools: { weather }, stopWhen: stepCountIs(3) });
  const text = await result.text;
  return { steps: (await result.steps).length, text };
}

const openai = createOpenAICompatible({ name: 'gateway', baseURL: `${base}/v1`, apiKey: 'k', includeUsage: true });
const google = createGoogleGenerativeAI({ baseURL: `${base}/v1beta`, apiKey: 'k' });
process.stdout.write(
  JSON.stringify({
    gemini: await genai({ apiKey: 'k' }),
    silent: await genai({ apiKey: 'k' }, 'slow'),
    express: await genai({ vertexai: true, apiKey: 'k' }),
    count: await count(),
    failure: await failure(),
    openai: await aiSdk(openai('plain')),
    google: await aiSdk(google('plain')),
    openaiTool: await aiSdkTool(openai('tooled')),
    googleTool: await aiSdkTool(google('tooled')),
  }),
);
