/** `Symbol.dispose` where the engine has none yet (WebKit), before anything asks for it: node-seal hangs its `delete` on it. */

const symbols = Symbol as { dispose?: symbol }
symbols.dispose ??= Symbol.for('Symbol.dispose') // the one that the compiled `using` takes
