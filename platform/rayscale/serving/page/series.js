// Which files belong together: the slices of a DICOM series, dropped as files, as a folder, or as a zip archive.

const HEAD = 65536;
const SERIES = [0x20, 0x00, 0x0e, 0x00]; // SeriesInstanceUID, little endian
const ENTRY = 0x02014b50;
const END = 0x06054b50;

/** Groups of files in their order, each one image: a file, or several of one series. */
export async function groupFiles(files) {
  const groups = new Map();
  for (const [at, file] of files.entries()) {
    const series = await seriesOf(file);
    const name = series ? `series ${series}` : `file ${at}`;
    groups.set(name, [...(groups.get(name) || []), file]);
  }
  return [...groups.values()];
}

/** The UID of the series of a DICOM file; null for any other file, and where it stands beyond the head. */
async function seriesOf(file) {
  const head = new Uint8Array(await file.slice(0, HEAD).arrayBuffer());
  if (String.fromCharCode(...head.slice(128, 132)) !== "DICM") return null;
  for (let at = 132; at + 12 < head.length; at += 2) {
    if (!SERIES.every((byte, n) => head[at + n] === byte)) continue;
    const explicit = head[at + 4] === 0x55 && head[at + 5] === 0x49; // UI
    const length = explicit ? head[at + 6] : head[at + 4];
    const text = String.fromCharCode(...head.slice(at + 8, at + 8 + length)).replace(/[\0 ]+$/, "");
    if (/^[0-9.]{3,64}$/.test(text)) return text;
  }
  return null;
}

/** The files of what was dropped, those of folders and archives too. */
export async function filesOf(items) {
  const entries = [...items].map((item) => item.webkitGetAsEntry?.() || item.getAsFile?.()).filter(Boolean);
  const found = [];
  for (const entry of entries) found.push(...await walk(entry));
  return unpackAll(found);
}

async function walk(entry) {
  if (entry instanceof File) return [entry];
  if (entry.isFile) return [await new Promise((resolve, reject) => { entry.file(resolve, reject); })];
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    // A reader gives a hundred at a time.
    const some = await new Promise((resolve, reject) => { reader.readEntries(resolve, reject); });
    if (!some.length) return found;
    for (const each of some.sort((a, b) => a.name.localeCompare(b.name, "en", { numeric: true }))) found.push(...await walk(each));
  }
}

/** The same files, archives replaced by what is in them. */
export async function unpackAll(files) {
  const found = [];
  for (const file of files) {
    // The service says what is wrong with an archive that cannot be read.
    found.push(...(/\.zip$/i.test(file.name) ? await unpack(file).catch(() => [file]) : [file]));
  }
  return found.filter((file) => !file.name.startsWith(".") && file.name !== "DICOMDIR");
}

async function unpack(file) {
  const data = new DataView(await file.arrayBuffer());
  let end = data.byteLength - 22;
  while (end >= 0 && data.getUint32(end, true) !== END) end -= 1;
  if (end < 0) return [file];
  const found = [];
  let at = data.getUint32(end + 16, true);
  for (let count = data.getUint16(end + 10, true); count > 0; count -= 1) {
    if (at + 46 > data.byteLength || data.getUint32(at, true) !== ENTRY) break;
    const [method, packed] = [data.getUint16(at + 10, true), data.getUint32(at + 20, true)];
    const [named, extra, remark] = [28, 30, 32].map((place) => data.getUint16(at + place, true));
    const name = new TextDecoder().decode(new Uint8Array(data.buffer, at + 46, named));
    const local = data.getUint32(at + 42, true);
    if (!name.endsWith("/")) {
      const start = local + 30 + data.getUint16(local + 26, true) + data.getUint16(local + 28, true);
      const part = new Blob([new Uint8Array(data.buffer, start, packed)]);
      const body = method === 8 ? await new Response(part.stream().pipeThrough(new DecompressionStream("deflate-raw"))).blob() : part;
      found.push(new File([body], name.split("/").pop()));
    }
    at += 46 + named + extra + remark;
  }
  return found;
}
