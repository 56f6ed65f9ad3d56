//! Every committed input, and blind mutations of them, for every target.

#[cfg(test)]
mod corpora {
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::thread;

    use fuzz::Target;
    use fuzz::loss::tries;
    use fuzz::mutation::Mutator;
    use undine_collector::protocol::ProtocolCode;

    /// Mutated inputs for each target: a few seconds of a core in a release build, which CI's is.
    const MUTATIONS: usize = if cfg!(debug_assertions) { 500 } else { 20_000 };
    /// Most bytes of a corpus, and of all of them.
    const CORPUS_BYTES_MAX: usize = 300 * 1024;
    const CORPORA_BYTES_MAX: usize = 3 << 20;

    /// An input with its name.
    type Input = (String, Vec<u8>);

    fn folder(target: Target) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name())
    }

    /// The committed inputs of a target, in the order of their names.
    fn corpus(target: Target) -> Vec<Input> {
        let Ok(entries) = fs::read_dir(folder(target)) else { return Vec::new() };
        let read = |path: PathBuf| (path.display().to_string(), fs::read(&path).unwrap());
        let mut inputs: Vec<_> = entries.map(|entry| read(entry.unwrap().path())).collect();
        inputs.sort();
        inputs
    }

    /// Checks an input, and keeps it where that panics.
    fn check(target: Target, name: &str, input: &[u8]) {
        struct Kept<'a>(Target, &'a str, &'a [u8]);
        impl Drop for Kept<'_> {
            fn drop(&mut self) {
                let Self(target, name, input) = self;
                if thread::panicking() {
                    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(target.name());
                    let kept = fs::write(&path, input).map(|()| path);
                    println!("it was an input like {name}, kept in {kept:?}");
                }
            }
        }
        let _kept = Kept(target, name, input);
        target.check(input);
    }

    #[test]
    fn every_target_has_a_corpus_of_bounded_size_and_all_of_it_holds() {
        let mut bytes_of_all = 0;
        for target in Target::all() {
            let inputs = corpus(target);
            let bytes: usize = inputs.iter().map(|(_, input)| input.len()).sum();
            assert!(!inputs.is_empty(), "nothing is in {}", folder(target).display());
            assert!(bytes <= CORPUS_BYTES_MAX, "{} has {bytes} bytes", target.name());
            bytes_of_all += bytes;
            for (name, input) in inputs {
                check(target, &name, &input);
            }
        }
        assert!(bytes_of_all <= CORPORA_BYTES_MAX, "{bytes_of_all} bytes are committed");
    }

    #[test]
    fn every_protocol_has_conversations_in_which_holes_are_tried() {
        for target in Target::all() {
            // A handshake of TLS ends with what is another protocol, so it is never whole.
            let Target::Talk(code) = target else { continue };
            if code == ProtocolCode::Tls {
                continue;
            }
            let tried = corpus(target).iter().filter(|(_, input)| tries(code, input)).count();
            println!("{} {tried}", target.name());
            assert!(tried > 0, "holes are tried in no conversation of {}", target.name());
        }
    }

    #[test]
    fn what_is_nearly_a_committed_input_holds_too() {
        let targets = Target::all();
        let threads = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        thread::scope(|scope| {
            for targets in targets.chunks(targets.len().div_ceil(threads)) {
                scope.spawn(move || targets.iter().copied().for_each(check_mutations));
            }
        });
    }

    fn check_mutations(target: Target) {
        let inputs = corpus(target);
        let mut mutator = Mutator::new(20_261_121);
        for _ in 0..MUTATIONS {
            let Some((name, input)) = inputs.get(mutator.below(inputs.len())) else { return };
            let mut input = input.clone();
            let (_, other) = &inputs[mutator.below(inputs.len())];
            mutator.mutate(&mut input, other);
            check(target, name, &input);
        }
    }
}
