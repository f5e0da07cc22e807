// The page /redoc: the OpenAPI document of this service, to read.
// No search: it would need a worker of a blob, which the policy of the page forbids.
Redoc.init("openapi.json" + location.search, {disableSearch: true}, document.getElementById("page"));
