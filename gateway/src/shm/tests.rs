use super::*;
use bytes::Bytes;
use policy::{Code, Envelope, InputTensor, OutputTensor, Param, Parameters, Reply, RequestedOutput, SharedMemory};
use proto::chain::Chain;
use rustix::fs::Mode;
use rustix::shm::{self, OFlags};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};

/// A shared memory object as a client makes it, unlinked when dropped.
struct Object {
    key: String,
    fd: OwnedFd,
}

impl Object {
    fn new(content: &[u8]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let key = format!("/gateway-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR;
        let object = Self { fd: shm::open(key.as_str(), flags, Mode::RUSR | Mode::WUSR).unwrap(), key };
        assert_eq!(rustix::io::pwrite(&object.fd, content, 0), Ok(content.len()));
        object
    }

    fn content(&self) -> Vec<u8> {
        let mut bytes = vec![0; rustix::fs::fstat(&self.fd).unwrap().st_size as usize];
        assert_eq!(rustix::io::pread(&self.fd, &mut bytes[..], 0), Ok(bytes.len()));
        bytes
    }

    fn shrink(&self, len: u64) {
        rustix::fs::ftruncate(&self.fd, len).unwrap();
    }

    fn as_region(&self, name: &str, offset: u64, byte_size: u64) -> RegionStatus {
        RegionStatus { name: name.into(), key: self.key.clone(), offset, byte_size }
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        let _ = shm::unlink(self.key.as_str());
    }
}

/// Regions with 1000 bytes of budget, and 100 bytes for one request.
fn regions() -> (Regions, Budget) {
    let budget = Budget::new(1000);
    (Regions::on(budget.clone(), 100), budget)
}

fn place(region: &str, offset: u64, byte_size: u64) -> Parameters {
    SharedMemory { region: region.into(), offset, byte_size }.into_parameters()
}

/// A request for `t`, whose inputs have these parameters.
fn request(inputs: &[Parameters]) -> (Envelope, Vec<Chain>) {
    let input = |(i, parameters): (usize, &Parameters)| InputTensor {
        name: format!("i{i}"),
        datatype: "UINT8".into(),
        parameters: parameters.clone(),
        ..Default::default()
    };
    let envelope = Envelope { inputs: inputs.iter().enumerate().map(input).collect(), ..Default::default() };
    (envelope, vec![Chain::default(); inputs.len()])
}

fn bytes(chain: &Chain) -> Bytes {
    chain.clone().into_bytes()
}

/// What reading one input at `parameters` answers.
fn read(regions: &Regions, parameters: Parameters) -> Result<Bytes, Failure> {
    let (mut envelope, mut raw) = request(&[parameters]);
    regions.resolve_inputs("t", &mut envelope, &mut raw)?;
    assert_eq!(envelope.inputs[0].byte_length, raw[0].len() as u64);
    Ok(bytes(&raw[0]))
}

/// What answering outputs `a` (bytes 1 2 3) and `b` (4 5) does, when they are asked for with these parameters.
fn answer(regions: &Regions, a: Parameters, b: Parameters) -> Result<(Reply, Vec<Chain>), Failure> {
    let output = |name: &str, parameters| RequestedOutput { name: name.into(), parameters };
    let mut envelope = Envelope { outputs: vec![output("b", b), output("a", a)], ..Default::default() };
    let plan = regions.plan_outputs("t", &mut envelope)?;
    assert!(envelope.outputs.iter().all(|output| output.parameters.is_empty()), "a worker never sees them");
    let tensor = |name: &str| OutputTensor { name: name.into(), ..Default::default() };
    let mut reply = Reply { outputs: vec![tensor("a"), tensor("b")], ..Default::default() };
    let mut a = Chain::from(vec![1]);
    a.push(vec![2, 3].into());
    let mut raw = vec![a, vec![4, 5].into()];
    plan.deliver(&mut reply, &mut raw)?;
    Ok((reply, raw))
}

fn is(code: Code, needles: &[&str], result: Result<impl Sized, Failure>) {
    let failure = result.err().unwrap_or_else(|| panic!("expected {needles:?}"));
    assert_eq!(failure.wire().0, code, "{failure}");
    for needle in needles {
        assert!(failure.to_string().contains(needle), "{failure} has no {needle:?}");
    }
}

#[test]
fn inputs_are_read_where_they_lie_and_the_others_stay() {
    let object = Object::new(b"0123456789");
    let (regions, budget) = regions();
    regions.register("t", object.as_region("r", 2, 8)).unwrap();
    let own = ("own".to_owned(), Param::Bool(true));
    let mut with_own = place("r", 3, 4);
    with_own.push(own.clone());
    let (mut envelope, mut raw) = request(&[place("r", 0, 8), vec![], with_own]);
    raw[1] = Bytes::from_static(b"raw").into();
    let permit = regions.resolve_inputs("t", &mut envelope, &mut raw).unwrap();
    assert_eq!([bytes(&raw[0]), bytes(&raw[1]), bytes(&raw[2])], [&b"23456789"[..], b"raw", b"5678"]);
    assert_eq!((envelope.inputs[0].byte_length, envelope.inputs[2].byte_length), (8, 4));
    assert_eq!((&envelope.inputs[0].parameters, &envelope.inputs[2].parameters), (&vec![], &vec![own]));
    assert_eq!(budget.held(), 12);
    drop(permit);
    assert_eq!(budget.held(), 0);
}

#[test]
fn what_was_read_does_not_change_with_the_object() {
    let object = Object::new(b"checked");
    let (regions, _) = regions();
    regions.register("t", object.as_region("r", 0, 7)).unwrap();
    let tensor = read(&regions, place("r", 0, 7)).unwrap();
    rustix::io::pwrite(&object.fd, b"changed", 0).unwrap();
    assert_eq!(tensor, &b"checked"[..]);
}

#[test]
fn outputs_are_written_where_they_are_wanted_and_nothing_else_changes() {
    let object = Object::new(b"0123456789");
    let (regions, _) = regions();
    regions.register("t", object.as_region("r", 2, 8)).unwrap();
    let (reply, raw) = answer(&regions, place("r", 1, 4), vec![]).unwrap();
    assert_eq!(object.content(), b"012\x01\x02\x036789");
    assert!(raw[0].is_empty(), "an entry stays, but empty");
    assert_eq!(bytes(&raw[1]), &[4u8, 5][..]);
    assert_eq!(reply.outputs[0].parameters, place("r", 1, 3), "the length is the true one");
    assert!(reply.outputs[1].parameters.is_empty());
    let (reply, _) = answer(&regions, vec![], place("r", 0, 2)).unwrap();
    assert!(reply.outputs[1].parameters.iter().all(|(name, _)| name != SharedMemory::OFFSET));
}

#[test]
fn an_output_longer_than_its_room_is_refused_with_both_numbers_and_none_is_written() {
    let object = Object::new(b"0123456789");
    let (regions, _) = regions();
    regions.register("t", object.as_region("r", 0, 10)).unwrap();
    let result = answer(&regions, place("r", 0, 2), place("r", 5, 2));
    is(Code::InvalidArgument, &["`r`", "output `a` has 3 bytes", "gives it 2"], result);
    assert_eq!(object.content(), b"0123456789");
}

#[test]
fn a_range_outside_the_region_is_refused_even_where_the_object_goes_on() {
    let object = Object::new(&[0; 64]);
    let (regions, _) = regions();
    regions.register("t", object.as_region("r", 8, 16)).unwrap();
    assert!(read(&regions, place("r", 16, 0)).unwrap().is_empty());
    for (offset, byte_size) in [(0, 17), (16, 1), (1, i64::MAX as u64), (i64::MAX as u64, 2)] {
        let needles = ["`r`", &format!("{byte_size} bytes at offset {offset}"), "its 16 bytes"];
        is(Code::InvalidArgument, &needles, read(&regions, place("r", offset, byte_size)));
        is(Code::InvalidArgument, &needles, answer(&regions, place("r", offset, byte_size), vec![]));
    }
    let huge = |name: &str| (name.to_owned(), Param::Uint64(u64::MAX));
    let all = vec![(SharedMemory::REGION.to_owned(), Param::String("r".into())), huge(SharedMemory::OFFSET), huge(SharedMemory::BYTE_SIZE)];
    is(Code::InvalidArgument, &["18446744073709551615 bytes at offset 18446744073709551615"], read(&regions, all));
}

#[test]
fn an_object_that_shrank_is_an_error_and_does_not_grow_again() {
    let object = Object::new(b"0123456789");
    let (regions, _) = regions();
    regions.register("t", object.as_region("r", 0, 10)).unwrap();
    object.shrink(6);
    is(Code::InvalidArgument, &["`r`", "shrunk", "of 4 bytes at offset 4 2 are left"], read(&regions, place("r", 4, 4)));
    is(Code::InvalidArgument, &["`r`", "shrunk", "of 3 bytes at offset 4 2 are left"], answer(&regions, place("r", 4, 3), vec![]));
    assert_eq!(object.content(), b"012345");
    assert_eq!(read(&regions, place("r", 0, 6)).unwrap(), &b"012345"[..]);
}

#[test]
fn a_request_reads_no_more_than_a_message_may_carry_and_the_budget_holds() {
    let object = Object::new(&[0; 600]);
    let budget = Budget::new(120);
    let regions = Regions::on(budget.clone(), 100);
    regions.register("t", object.as_region("r", 0, 600)).unwrap();
    is(Code::ResourceExhausted, &["101", "100"], read(&regions, place("r", 0, 101)));
    let (mut envelope, mut raw) = request(&[place("r", 0, 60), vec![]]);
    raw[1] = vec![0; 41].into();
    is(Code::ResourceExhausted, &["101", "100"], regions.resolve_inputs("t", &mut envelope, &mut raw));
    let (mut envelope, mut raw) = request(&[place("r", 0, 60), place("r", 0, 40)]);
    let held = regions.resolve_inputs("t", &mut envelope, &mut raw).unwrap();
    is(Code::Unavailable, &["100 of 120"], read(&regions, place("r", 0, 21)));
    drop(held);
    assert!(read(&regions, place("r", 0, 21)).is_ok());
    assert_eq!(budget.held(), 0);
}

#[test]
fn an_input_has_its_bytes_in_one_place() {
    let object = Object::new(b"0123");
    let (regions, _) = regions();
    regions.register("t", object.as_region("r", 0, 4)).unwrap();
    let (mut envelope, mut raw) = request(&[place("r", 0, 4)]);
    raw[0] = vec![1].into();
    is(Code::InvalidArgument, &["`i0`", "one or the other"], regions.resolve_inputs("t", &mut envelope, &mut raw));
}

#[test]
fn wrong_parameters_are_named_with_their_tensor() {
    let (regions, _) = regions();
    let no_size = vec![(SharedMemory::REGION.to_owned(), Param::String("r".into()))];
    is(Code::InvalidArgument, &["`shared_memory_byte_size`", "`i0`"], read(&regions, no_size.clone()));
    is(Code::InvalidArgument, &["`shared_memory_byte_size`", "`a`"], answer(&regions, no_size, vec![]));
}

#[test]
fn a_tenant_sees_and_uses_only_its_own_regions() {
    let (mine, theirs) = (Object::new(b"mine"), Object::new(b"theirs"));
    let (regions, _) = regions();
    regions.register("u", theirs.as_region("r", 0, 6)).unwrap();
    is(Code::NotFound, &["`r`"], read(&regions, place("r", 0, 4)));
    is(Code::NotFound, &["`r`"], answer(&regions, place("r", 0, 3), vec![]));
    is(Code::NotFound, &["`r`"], regions.status("t", "r"));
    assert_eq!(regions.status("t", ""), Ok(vec![]));
    regions.register("t", mine.as_region("r", 0, 4)).unwrap(); // the same name, another region
    assert_eq!(read(&regions, place("r", 0, 4)).unwrap(), &b"mine"[..]);
    regions.unregister("t", "");
    assert_eq!(regions.status("u", ""), Ok(vec![theirs.as_region("r", 0, 6)]));
}

#[test]
fn registering_unregistering_and_status_follow_the_protocol() {
    let object = Object::new(&[0; 8]);
    let (regions, _) = regions();
    regions.unregister("t", "");
    regions.unregister("t", "never");
    for name in ["b", "a", "c"] {
        regions.register("t", object.as_region(name, 1, 7)).unwrap();
    }
    is(Code::AlreadyExists, &["`a`", "already"], regions.register("t", object.as_region("a", 0, 1)));
    assert_eq!(regions.status("t", "a"), Ok(vec![object.as_region("a", 1, 7)]), "the first stands");
    is(Code::NotFound, &["`d`"], regions.status("t", "d"));
    regions.unregister("t", "a");
    assert_eq!(regions.status("t", ""), Ok(vec![object.as_region("b", 1, 7), object.as_region("c", 1, 7)]));
    is(Code::NotFound, &["`a`"], read(&regions, place("a", 0, 1)));
    regions.unregister("t", "");
    assert_eq!(regions.status("t", ""), Ok(vec![]));
    assert!(regions.shared().unwrap().tenants().is_empty(), "a tenant without regions takes no memory");
}

#[test]
fn a_region_in_use_is_delivered_to_after_it_is_unregistered() {
    let object = Object::new(b"0123");
    let (regions, _) = regions();
    regions.register("t", object.as_region("r", 0, 4)).unwrap();
    let outputs = vec![RequestedOutput { name: "a".into(), parameters: place("r", 0, 4) }];
    let plan = regions.plan_outputs("t", &mut Envelope { outputs, ..Default::default() }).unwrap();
    regions.unregister("t", "r");
    let mut reply = Reply { outputs: vec![OutputTensor { name: "a".into(), ..Default::default() }], ..Default::default() };
    plan.deliver(&mut reply, &mut [vec![9].into()]).unwrap();
    assert_eq!(object.content(), b"\x09123");
}

#[test]
fn a_reply_without_a_wanted_output_is_told_apart() {
    let object = Object::new(b"0123");
    let (regions, _) = regions();
    regions.register("t", object.as_region("r", 0, 4)).unwrap();
    let outputs = vec![RequestedOutput { name: "a".into(), parameters: place("r", 0, 4) }];
    let plan = regions.plan_outputs("t", &mut Envelope { outputs, ..Default::default() }).unwrap();
    is(Code::Internal, &["`a` is missing"], plan.deliver(&mut Reply::default(), &mut []));
}

#[test]
fn names_keys_and_ranges_that_are_not_allowed_are_refused() {
    let object = Object::new(&[0; 8]);
    let (regions, _) = regions();
    let refuses = |needle: &str, change: &dyn Fn(&mut RegionStatus)| {
        let mut status = object.as_region("r", 0, 8);
        change(&mut status);
        is(Code::InvalidArgument, &[needle], regions.register("t", status));
        assert_eq!(regions.status("t", ""), Ok(vec![]));
    };
    let long = "k".repeat(256);
    for key in ["", "/", "..", "/..", ".", "//x", "/a/b", "a/b", "/../etc/passwd", "/a\0b", &long] {
        refuses("is not allowed", &|status| status.key = key.into());
    }
    for key in ["/triton_python_backend_shm_region_0", "triton_python_backend_shm_region_", "/sluice", "sluice-batch"] {
        refuses("reserved", &|status| status.key = key.into());
    }
    refuses("No such file", &|status| status.key.push('x'));
    refuses("expected 1 to 256", &|status| status.name.clear());
    refuses("has 257 bytes", &|status| status.name = "n".repeat(257));
    refuses("0 bytes at offset 0", &|status| status.byte_size = 0);
    refuses("9 bytes at offset 0 are not a range within object `/gateway-test", &|status| status.byte_size = 9);
    refuses("of 8 bytes", &|status| status.offset = 1);
    refuses("18446744073709551615", &|status| (status.offset, status.byte_size) = (2, u64::MAX));

    let mut bare = object.as_region("bare", 0, 8);
    bare.key = bare.key.trim_start_matches('/').to_owned();
    regions.register("t", bare).unwrap();
}

/// The system's directory for objects is one that anybody may put links, pipes and folders into.
#[test]
fn only_a_true_object_is_opened() {
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), b"secret").unwrap();
    let object = Object::new(b"");
    let path = std::path::Path::new("/dev/shm").join(object.key.trim_start_matches('/'));
    let (regions, _) = regions();
    let refused = || is(Code::InvalidArgument, &[&object.key], regions.register("t", object.as_region("r", 0, 1)));
    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(secret.path(), &path).unwrap();
    refused();
    std::fs::remove_file(&path).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    refused();
}

#[test]
fn one_tenant_and_all_together_register_a_bounded_number() {
    let object = Object::new(&[0]);
    let (regions, _) = regions();
    let register = |tenant: &str, i: usize| regions.register(tenant, object.as_region(&i.to_string(), 0, 1));
    for tenant in 0..REGIONS_MAX / TENANT_REGIONS_MAX {
        (0..TENANT_REGIONS_MAX).for_each(|i| register(&tenant.to_string(), i).unwrap());
    }
    is(Code::InvalidArgument, &["of this tenant: 129", "limit of 128"], register("0", 128));
    is(Code::InvalidArgument, &["of this gateway: 257", "limit of 256"], register("new", 0));
    regions.unregister("0", "7");
    register("new", 0).unwrap();
}

#[test]
fn off_refuses_what_uses_a_region_and_nothing_else() {
    let object = Object::new(&[0; 4]);
    let regions = Regions::off();
    is(Code::Unavailable, &["--allow-client-shm"], regions.register("t", object.as_region("r", 0, 4)));
    is(Code::Unavailable, &["--allow-client-shm"], read(&regions, place("r", 0, 4)));
    is(Code::Unavailable, &["--allow-client-shm"], answer(&regions, place("r", 0, 4), vec![]));
    regions.unregister("t", "");
    assert_eq!((regions.status("t", ""), regions.status("t", "r")), (Ok(vec![]), Ok(vec![])));
    assert_eq!(read(&regions, vec![]).unwrap(), Bytes::new());
    assert!(answer(&regions, vec![], vec![]).is_ok());
}
