// One image through an exported network: srs best.xml HEIGHT WIDTH < image > logits, float32, plane after plane.
#include <iostream>
#include <string>
#include <openvino/openvino.hpp>

int main(int argc, char** argv) {
    auto network = ov::Core().compile_model(argv[1], "CPU", ov::hint::inference_precision(ov::element::f32));
    ov::Tensor image(ov::element::f32, {1, 3, std::stoul(argv[2]), std::stoul(argv[3])});
    std::cin.read(static_cast<char*>(image.data()), image.get_byte_size());
    auto request = network.create_infer_request();
    request.set_tensor("image", image);
    request.infer();
    auto logits = request.get_tensor("logits");
    std::cout.write(static_cast<char*>(logits.data()), logits.get_byte_size());
}
