// A bare Node-RED: no editor, no palette, nothing asked of the network but what the flow asks.
module.exports = {
  httpAdminRoot: false,
  httpNodeRoot: false,
  uiHost: "127.0.0.1",
  uiPort: 0,
  telemetry: { enabled: false },
  logging: { console: { level: "warn", metrics: false, audit: false } },
};
