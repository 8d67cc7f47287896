// RUN: lowc opt %s --pass-pipeline='builtin.module(lowc-name-matmuls,lowc-assign-forms{rules="[{\"match\":\"*\",\"form\":\"ternary\",\"tables\":\"i7\",\"span\":64,\"packing\":\"trits\"}]"},lowc-lower-lut,cse)' 2>&1 | filecheck %s --check-prefix=FORM
// RUN: lowc opt %s --pass-pipeline='builtin.module(lowc-name-matmuls,lowc-assign-forms{rules="[{\"match\":\"*\",\"form\":\"ternary\",\"tables\":\"i7\",\"span\":64,\"packing\":\"trits\"}]"},lowc-lower-lut,cse,lowc-outline-kernels{unit=avx512vbmi},canonicalize,cse,symbol-dce)' 2>&1 | filecheck %s --check-prefix=VBMI
// RUN: lowc opt %s --pass-pipeline='builtin.module(lowc-name-matmuls,lowc-assign-forms{rules="[{\"match\":\"*\",\"form\":\"ternary\",\"tables\":\"i7\",\"span\":64,\"packing\":\"trits\"}]"},lowc-lower-lut,cse,lowc-outline-kernels{unit=avx512})' 2>&1 | filecheck %s --check-prefix=OTHER
// RUN: lowc opt %s --pass-pipeline='builtin.module(lowc-name-matmuls,lowc-assign-forms{rules="[{\"match\":\"*\",\"form\":\"ternary\",\"tables\":\"i7\",\"span\":64,\"packing\":\"trits\"}]"},lowc-lower-lut,cse,lowc-outline-kernels{unit=portable})' 2>&1 | filecheck %s --check-prefix=PORTABLE
// RUN: lowc opt %s --pass-pipeline='builtin.module(lowc-name-matmuls,lowc-assign-forms{rules="[{\"match\":\"*\",\"form\":\"ternary\",\"tables\":\"i7\",\"span\":64,\"packing\":\"trits\"}]"},lowc-lower-lut{packing=words},cse)' 2>&1 | filecheck %s --check-prefix=WORDS

// Five ternary weights in a byte: the definition looks 243 entries up, spans are whole fives.

// FORM: remark: fc: -1, 0 and 1, five in a byte, one scale; tables of i7 in spans of 70, 1.75 bits a weight
// FORM: util.global private @fc.weight.{{.*}}.trits {{.*}} : tensor<64x56xi8>
// FORM: linalg.generic {{.*}} outs(%{{.*}} : tensor<?x56x243xf32>) attrs = {lowc.prepared = "tables"}
// FORM: linalg.generic {{.*}} ins(%{{.*}} : tensor<64x4x14xi8>) outs(%{{.*}} : tensor<?x64x4xi32>)
// FORM: tensor.extract %{{.*}} : tensor<?x4x14x243xi8>
// FORM: lowc.product = "{\22kind\22: \22trit-tables\22

// 128 entries for each five in two registers; panels hold bytes of as many columns.

// VBMI: remark: fc: look-up kernel (vpermi2b, i7), {{[0-9]+}} x 64 sums in registers
// VBMI: hal.executable.source private @[[K:lookup_f1g280_1xdx64_trit_tables_dx256i7s70v16_t[0-9]+x4g[0-9]+c[0-9]+]] {
// VBMI: llvm.call_intrinsic "llvm.x86.avx512.vpermi2var.qi.512"
// VBMI: hal.executable.source private @[[T:trit_tables_dx256i7s70v16]] {
// VBMI: util.global private @{{.*}}.trits {lowc.derivation = {{.*}}kind = "trit-panels"{{.*}} : tensor<1x1x56x16xi32>
// VBMI-LABEL: func.func @linear
// VBMI: %[[R:.*]] = flow.dispatch @[[T]]::@[[T]]
// VBMI: flow.dispatch @[[K]]::@[[K]][{{.*}}](%{{.*}}, %[[R]],

// Without VBMI each of eight byte shuffles looks up in 16 of the entries; bits choose among them.

// OTHER: remark: fc: look-up kernel (vpshufb, five at once, i7), {{[0-9]+}} x 64 sums in registers
// OTHER-COUNT-8: llvm.call_intrinsic "llvm.x86.avx512.pshuf.b.512"
// OTHER: flow.dispatch

// Elsewhere it is IREE's code.

// PORTABLE: remark: fc: no kernel: kernels of look-ups are for CPUs with AVX2
// PORTABLE-NOT: flow.dispatch

// WORDS: remark: fc: not rewritten: this target looks up wrong bytes, and five weights are one byte
// WORDS-NOT: util.global private @{{.*}}.trits
util.global private @fc.weight = #flow.parameter.named<"model"::"fc.weight"> : tensor<64x256xf32>
func.func @linear(%x: tensor<?x256xf32>, %o: tensor<?x64xf32>) -> tensor<?x64xf32> {
  %w = util.global.load @fc.weight : tensor<64x256xf32>
  %y = linalg.generic {
    indexing_maps = [affine_map<(m, n, k) -> (m, k)>, affine_map<(m, n, k) -> (n, k)>, affine_map<(m, n, k) -> (m, n)>],
    iterator_types = ["parallel", "parallel", "reduction"]}
    ins(%x, %w : tensor<?x256xf32>, tensor<64x256xf32>) outs(%o : tensor<?x64xf32>) {
  ^bb0(%a: f32, %b: f32, %s: f32):
    %p = arith.mulf %a, %b : f32
    %t = arith.addf %s, %p : f32
    linalg.yield %t : f32
  } -> tensor<?x64xf32>
  return %y : tensor<?x64xf32>
}
