// Before and after in one view: two pictures of one width, each clipped at the divider, so zoom and place are always the same.

import { address, hasKey, headers } from "./api.js";
import { $ } from "./dom.js";

const { Point, Rect } = window.OpenSeadragon;
const TILE = 512;

export class Compare {
  constructor({ moved }) {
    this.items = {};
    this.turns = {};
    this.split = 0.5;
    this.viewer = window.OpenSeadragon({
      element: $("viewer"), drawer: "canvas", showNavigationControl: false, maxZoomPixelRatio: 24, minZoomImageRatio: 0.7,
      visibilityRatio: 0.4, animationTime: 0.4, springStiffness: 9, imageLoaderLimit: 6, maxImageCacheCount: 300,
      gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true }, gestureSettingsTouch: { clickToZoom: false },
    });
    this.viewer.addHandler("viewport-change", () => this.clip());
    this.viewer.addHandler("after-resize", () => {
      this.setSplit(this.split);
      // The viewer sets its own zoom after this event.
      if (this.whole) requestAnimationFrame(() => this.whole && this.fit(true));
    });
    // Whoever has moved keeps the place when the window changes.
    for (const name of ["canvas-drag", "canvas-scroll", "canvas-pinch", "canvas-double-click", "canvas-key"]) {
      this.viewer.addHandler(name, () => { this.whole = false; });
    }
    const canvas = this.viewer.canvas;
    canvas.setAttribute("role", "application");
    canvas.setAttribute("aria-label", "Before and after. Arrow keys move, plus and minus zoom, 0 shows everything.");
    new window.OpenSeadragon.MouseTracker({
      element: canvas,
      moveHandler: (event) => {
        const at = this.pixel(event.position);
        if (at) moved(at);
      },
    });
    this.drag();
  }

  /** Show a result; `address` of each layer comes from `paint(layer)`. */
  open(view) {
    this.viewer.world.removeAll();
    this.items = {};
    this.view = view;
    this.fitted = false;
    this.whole = true;
  }

  /** Show a layer with other colours, or take it away; what is there stays until the new tiles are. */
  paint(layer, picture, values, opacity = 1) {
    const turn = (this.turns[layer] = (this.turns[layer] || 0) + 1);
    const old = this.items[layer];
    const world = this.viewer.world;
    if (!picture) {
      if (old) world.removeItem(old);
      delete this.items[layer];
      return;
    }
    const order = ["before", "after", "overlay"];
    const above = order.slice(order.indexOf(layer) + 1).map((name) => this.items[name]).filter(Boolean)[0];
    this.viewer.addTiledImage({
      tileSource: this.source(picture, values), width: 1, opacity,
      index: above ? world.getIndexOfItem(above) : world.getItemCount(),
      loadTilesWithAjax: hasKey(), ajaxHeaders: headers(),
      success: ({ item }) => {
        if (turn !== this.turns[layer]) {
          world.removeItem(item);
          return;
        }
        this.items[layer] = item;
        this.clip();
        if (!this.fitted) {
          this.fitted = true;
          this.fit(true);
        }
        if (!old) return;
        const drop = () => world.getIndexOfItem(old) >= 0 && world.removeItem(old);
        if (item.getFullyLoaded()) drop();
        else item.addOnceHandler("fully-loaded-change", drop);
      },
    });
  }

  source({ layer, shown_width: width, shown_height: height, levels }, values) {
    const id = this.view.id;
    const text = new URLSearchParams(values).toString();
    return {
      width, height, tileSize: TILE, minLevel: 0, maxLevel: levels - 1,
      getTileUrl: (level, x, y) => address(`v1/views/${id}/tiles/${layer}/${level}/${x}/${y}?${text}`),
    };
  }

  setOpacity(value) {
    if (this.items.overlay) this.items.overlay.setOpacity(value);
  }

  setSmooth(on) {
    this.viewer.drawer.setImageSmoothingEnabled(on);
  }

  setSplit(share) {
    this.split = Math.min(1, Math.max(0, share));
    const width = $("viewer").clientWidth;
    $("handle").style.left = `${this.split * width}px`;
    $("tag-before").hidden = this.split * width < 90;
    $("tag-after").hidden = (1 - this.split) * width < 90;
    $("split").value = Math.round(this.split * 100);
    this.clip();
  }

  clip() {
    const viewport = this.viewer.viewport;
    if (!viewport) return;
    const at = viewport.pointFromPixel(new Point(this.split * $("viewer").clientWidth, 0), true).x;
    for (const [layer, item] of Object.entries(this.items)) {
      const { x: width, y: height } = item.getContentSize();
      const cut = Math.min(width, Math.max(0, at * width));
      const part = layer === "before" ? new Rect(0, 0, cut, height) : new Rect(cut, 0, width - cut, height);
      item.setClip(part.width > 0 ? part : new Rect(0, 0, 0.001, 0.001));
    }
  }

  /** The pixel of the result under a point of the view. */
  pixel(position) {
    const item = this.items.after;
    if (!item) return null;
    const { x, y } = item.viewportToImageCoordinates(this.viewer.viewport.pointFromPixel(position, true));
    const size = item.getContentSize();
    const inside = x >= 0 && y >= 0 && x < size.x && y < size.y;
    // Pixels that are not square are shown longer than they are stored.
    const { width, height, flipped } = this.view.after;
    const column = Math.floor((x * width) / size.x);
    const down = Math.floor((y * height) / size.y);
    // Rows are counted as in the file, and some files begin at the bottom.
    return inside ? { column, row: flipped ? height - 1 - down : down } : null;
  }

  zoom(factor) {
    this.whole = false;
    this.viewer.viewport.zoomBy(factor).applyConstraints();
  }

  /** All of the picture. Home of the viewer itself is what is not clipped. */
  fit(immediately = false) {
    this.whole = true;
    const item = this.items.after || this.items.before;
    if (item) this.viewer.viewport.fitBounds(item.getBounds(true), immediately);
  }

  /** One pixel of the result is one of the screen. */
  one() {
    const item = this.items.after;
    if (!item) return;
    this.whole = false;
    const viewport = this.viewer.viewport;
    viewport.zoomTo(item.imageToViewportZoom(1 / window.devicePixelRatio)).applyConstraints();
  }

  drag() {
    const handle = $("handle");
    handle.addEventListener("pointerdown", (event) => {
      handle.setPointerCapture(event.pointerId);
      event.preventDefault();
    });
    handle.addEventListener("pointermove", (event) => {
      if (!handle.hasPointerCapture(event.pointerId)) return;
      const box = $("viewer").getBoundingClientRect();
      this.setSplit((event.clientX - box.left) / box.width);
    });
    $("split").addEventListener("input", (event) => this.setSplit(event.target.value / 100));
  }
}
