// Search needs a web worker, and browsers refuse one from file://. There, run the script in a hidden frame instead, so
// that the site also works as files on a disk. Replaces the shim that MkDocs' theme would load from another server.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      this.waiting = []
      window.addEventListener("message", (event) => {
        if (event.source === this.frame.contentWindow)
          this.dispatchEvent(new MessageEvent("message", { data: event.data }))
      })
      this.frame.addEventListener("load", () => {
        const waiting = this.waiting
        this.waiting = null
        for (const data of waiting) this.postMessage(data)
      })
      this.frame.srcdoc = `<script>
        postMessage = parent.postMessage.bind(parent)
        importScripts = (...urls) => Promise.all(urls.map((url) => new Promise((done, failed) => {
          const script = Object.assign(document.createElement("script"), { src: url, onload: done, onerror: failed })
          document.head.append(script)
        })))
      </script><script src="${new URL(url, location).href}"></script>`
      document.documentElement.append(this.frame)
    }

    postMessage(data) {
      if (this.waiting) this.waiting.push(data)
      else this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data }))
    }
  }
}
