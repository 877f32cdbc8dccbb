// What is known
const S = { hosts: new Map(), tasks: new Map(), journal: new Map(), fates: [], verbs: false, zone: "UTC", host: "", life: "", state: "" };
const U = { span: 3600, filter: "all", q: "", task: "", host: "", at: 0, cursor: "", theme: "" };
let skew = 0, now = Date.now(), lastId = "", heard = 0, lost = false, complete = false, dirtyView = true, dirtyNeeds = true;
const on = host => (S.hosts.size > 1 ? ` on ${line(host, 40)}` : "");
const readNow = () => (now = Date.now() + skew);
const RUNS = 5, SUCCEEDED = 0, NOTHING = 1, FAILED = 2, TIMED_OUT = 3, CANCELLED = 4;
