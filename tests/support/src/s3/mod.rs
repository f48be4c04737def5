//! An S3 server in this process: real HTTP and real signatures, objects in memory, a log of what was asked, and faults.

mod moto;
mod objects;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use http_body_util::BodyExt as _;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use s3s::Body;
use s3s::auth::SimpleAuth;
use s3s::dto::StreamingBlob;
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use objects::Objects;

pub use moto::Moto;

/// Who may ask.
pub const ACCESS_KEY: &str = "AKIATESTKIT";
/// The secret of [`ACCESS_KEY`].
pub const SECRET_KEY: &str = "a secret/of+letters=";

/// A request that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Counted from the last time the log was emptied.
    pub number: usize,
    /// For example `PUT`.
    pub method: String,
    /// The bucket and the key, `/bucket/a/b`.
    pub path: String,
    /// What stands behind the question mark.
    pub query: String,
    /// The storage class that was asked for.
    pub storage_class: Option<String>,
}

/// What goes wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is done; the answer is this status with this code of an error.
    Says(u16, &'static str),
    /// Nothing is done, and the connection ends.
    Resets,
    /// It is done, and the connection ends before the answer.
    LosesAnswer,
    /// It is done, and the connection ends within the body of the answer.
    CutsBody,
    /// Nothing is done, and no answer comes.
    Stalls,
}

/// How a server takes `If-None-Match: *`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Conditions {
    /// As it should.
    #[default]
    Heeded,
    /// It says that it does not know it.
    Refused,
    /// It writes over what is there.
    Ignored,
}

/// An object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Object {
    /// What it holds.
    pub bytes: Vec<u8>,
    /// Where it lies; what lies in `GLACIER` or `DEEP_ARCHIVE` cannot be read before it was fetched.
    pub storage_class: Option<String>,
    /// Whether it was fetched from there.
    pub fetched: Fetched,
    /// How that was asked for: for how many days, and how fast.
    pub asked: Option<(i32, String)>,
}

/// Whether an object was fetched from where it cannot be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Fetched {
    /// Nobody asked for it.
    #[default]
    Never,
    /// It is on its way: until somebody says otherwise.
    UnderWay,
    /// It is there.
    There,
}

impl Object {
    /// Whether it lies where it cannot be read.
    pub(crate) fn is_cold(&self) -> bool {
        matches!(self.storage_class.as_deref(), Some("GLACIER" | "DEEP_ARCHIVE"))
    }
}

type Plan = Box<dyn Fn(&Call) -> Option<Fault> + Send>;

#[derive(Default)]
struct State {
    buckets: BTreeMap<String, BTreeMap<String, Object>>,
    conditions: Conditions,
    page: usize,
    log: Vec<Call>,
    plan: Option<Plan>,
}

/// Shared by the server and by who looks at it.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<State>>);

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running server; ends when it is dropped.
pub struct S3Server {
    address: SocketAddr,
    shared: Shared,
    stop: Option<oneshot::Sender<Infallible>>,
    thread: Option<JoinHandle<()>>,
}

impl S3Server {
    /// Starts one on an address of this machine, with empty buckets of these names.
    ///
    /// # Panics
    /// If there is no address to be had.
    pub fn start(buckets: &[&str]) -> Self {
        Self::on(std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap(), buckets)
    }

    /// Starts one where somebody listens already, for example a machine of a lab.
    ///
    /// # Panics
    /// If nobody can.
    pub fn on(listener: std::net::TcpListener, buckets: &[&str]) -> Self {
        let shared = Shared::default();
        {
            let mut state = shared.state();
            state.page = 1000;
            state.buckets = buckets.iter().map(|name| ((*name).to_owned(), BTreeMap::new())).collect();
        }
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let (stop, stopped) = oneshot::channel::<Infallible>();
        let known = shared.clone();
        let thread = std::thread::Builder::new().name("s3-server".into()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    () = serve(listener, known) => {}
                    _ = stopped => {}
                }
            });
        });
        let thread = Some(thread.unwrap());
        Self { address, shared, stop: Some(stop), thread }
    }

    /// Returns where it is, for example `http://127.0.0.1:4711`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Says how it takes conditions.
    pub fn set_conditions(&self, conditions: Conditions) {
        self.shared.state().conditions = conditions;
    }

    /// Says how many names one answer lists at most.
    pub fn set_page(&self, names: usize) {
        self.shared.state().page = names;
    }

    /// Says what goes wrong from now on, and empties the log.
    pub fn fail(&self, plan: impl Fn(&Call) -> Option<Fault> + Send + 'static) {
        let mut state = self.shared.state();
        state.log.clear();
        state.plan = Some(Box::new(plan));
    }

    /// Lets nothing go wrong any more, and returns what was asked since the log was emptied, which empties it.
    pub fn calls(&self) -> Vec<Call> {
        let mut state = self.shared.state();
        state.plan = None;
        std::mem::take(&mut state.log)
    }

    /// Returns what a bucket holds.
    ///
    /// # Panics
    /// If there is no such bucket.
    pub fn objects(&self, bucket: &str) -> BTreeMap<String, Object> {
        self.shared.state().buckets[bucket].clone()
    }

    /// Makes a bucket hold this.
    pub fn set_objects(&self, bucket: &str, objects: BTreeMap<String, Object>) {
        self.shared.state().buckets.insert(bucket.to_owned(), objects);
    }

    /// Changes an object behind everybody's back.
    ///
    /// # Panics
    /// If there is no such object.
    pub fn change(&self, bucket: &str, key: &str, how: impl FnOnce(&mut Object)) {
        let mut state = self.shared.state();
        let object = state.buckets.get_mut(bucket).and_then(|objects| objects.get_mut(key));
        how(object.unwrap_or_else(|| panic!("there is no `{key}` in `{bucket}`")));
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

async fn serve(listener: TcpListener, shared: Shared) {
    let mut builder = S3ServiceBuilder::new(Objects(shared.clone()));
    builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
    let service = builder.build();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        stream.set_nodelay(true).ok();
        let (shared, service) = (shared.clone(), service.clone());
        let answer = service_fn(move |request| answer(shared.clone(), service.clone(), request));
        tokio::spawn(
            async move { http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await },
        );
    }
}

/// Ends a connection when it is returned.
type Ended = Box<dyn std::error::Error + Send + Sync>;

async fn answer(
    shared: Shared,
    service: S3Service,
    request: Request<Incoming>,
) -> Result<Response<Body>, Ended> {
    let fault = note(&shared, &request);
    match fault {
        Some(Fault::Says(status, code)) => return Ok(says(status, code)),
        Some(Fault::Resets) => return Err("reset".into()),
        Some(Fault::Stalls) => std::future::pending::<()>().await,
        _ => {}
    }
    let answer = service.call(request.map(Body::from)).await.map_err(|error| format!("{error:?}"))?;
    match fault {
        Some(Fault::LosesAnswer) => Err("the answer is lost".into()),
        Some(Fault::CutsBody) => cut(answer).await,
        _ => Ok(answer),
    }
}

fn note(shared: &Shared, request: &Request<Incoming>) -> Option<Fault> {
    let class = request.headers().get("x-amz-storage-class");
    let mut state = shared.state();
    let call = Call {
        number: state.log.len(),
        method: request.method().to_string(),
        path: request.uri().path().to_owned(),
        query: request.uri().query().unwrap_or_default().to_owned(),
        storage_class: class.and_then(|class| class.to_str().ok()).map(str::to_owned),
    };
    state.log.push(call.clone());
    state.plan.as_ref().and_then(|plan| plan(&call))
}

fn says(status: u16, code: &str) -> Response<Body> {
    let text = match code {
        "" => String::new(),
        _ => format!(
            "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>on demand</Message><Region>eu-west-1</Region></Error>"
        ),
    };
    let mut answer = Response::new(Body::from(text));
    *answer.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::IM_A_TEAPOT);
    answer
}

/// Leaves the head of an answer and a half of its body.
async fn cut(answer: Response<Body>) -> Result<Response<Body>, Ended> {
    let (head, body) = answer.into_parts();
    let bytes = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
    let half = bytes.slice(..bytes.len() / 2);
    let parts = [Ok::<Bytes, std::io::Error>(half), Err(std::io::Error::other("cut"))];
    let body = Body::from(StreamingBlob::wrap(futures::stream::iter(parts)));
    Ok(Response::from_parts(head, body))
}
