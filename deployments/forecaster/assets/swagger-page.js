// The page /docs: the OpenAPI document of this service, to read and to try.
SwaggerUIBundle({
  url: "openapi.json" + location.search,
  dom_id: "#page",
  validatorUrl: null, // no other host is asked
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
});
